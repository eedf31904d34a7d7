"""The process that holds HAProxy's listening sockets, starts it, and starts it again when it dies.

It ends when HAProxy has been told to, and stops it when nobody is left whom it serves.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rayserve_app.operations.server import haproxy
from rayserve_app.operations.server.haproxy_config import Place, rewrite

STOP_SIGNALS: Final = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
"""With the first, HAProxy answers what it has taken before it ends."""

RESTART_PERIOD_S: Final = 1.0
"""From one start to the next at least, unless it has lived as long."""

UP_POLL_S: Final = 0.02

SUCCESSOR_S: Final = 30.0
"""How long it serves on without Serve's actor; the next one comes after 2 to 4 s."""

ORDERLY_S: Final = 1.0
"""Serve ends its actor right after the launcher, and only then, when it wants all to end. When the
launcher was killed by others, the actor follows when its health check has failed three times."""

ANSWER_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True)
class Handover:
    """What a launcher's successor needs."""

    keeper: int
    """Process id; it stops its HAProxy at SIGUSR1."""
    listeners: dict[Place, socket.socket]


@dataclass
class Folder:
    """Where Serve keeps HAProxy's files of one Ray node, and a launcher those of its own."""

    path: Path
    launcher: int = field(default_factory=os.getpid)

    @property
    def configuration(self) -> Path:
        return self.path / "launched.cfg"

    @property
    def known(self) -> Path:
        """The configuration as Serve wrote it that is being served, until Serve wants no more."""
        return self.path / "known.cfg"

    @property
    def haproxy_socket(self) -> str:
        """The admin socket of this launcher's HAProxy. Serve's own path is no shorter: a socket's
        may have 107 bytes, and HAProxy adds a dozen."""
        return str(self.path / f"own{self.launcher}")

    @property
    def haproxy_sockets(self) -> list[str]:
        """Those of all launchers."""
        return [str(path) for path in self.path.glob("own*")]

    @property
    def keeper_socket(self) -> str:
        return str(self.path / "keep.sock")


@dataclass
class Relatives:
    """The processes without which nobody needs HAProxy; None where they are unknown."""

    actor: int | None
    raylet: int | None
    launcher: int | None = None


@dataclass
class Keeper:
    """See the module. `run` is the whole life of the process."""

    command: list[str]
    """HAProxy and its arguments, but for its configuration and whom it replaces."""
    text: str
    folder: Folder
    listeners: Mapping[Place, socket.socket]
    relatives: Relatives
    is_state_fresh: bool
    _child: int = 0
    _started_s: float = 0.0
    _is_up: bool = False
    _is_stopping: bool = False
    _gone_s: dict[int, float] = field(default_factory=dict)

    def run(self, replaced: int | None, ready: int) -> int:
        """Keep HAProxy running until it is told to end.

        Args:
            replaced: the process that is to stop once HAProxy is up, if any.
            ready: a descriptor that is written to once it is up.
        Returns:
            HAProxy's exit status.
        """
        wakeup, writer = os.pipe()
        os.set_blocking(writer, False)
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in STOP_SIGNALS:
            signal.signal(number, self._pass_on)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        poll = select.poll()
        poll.register(wakeup, select.POLLIN)
        for descriptor in self._watched():
            poll.register(descriptor, select.POLLIN)
        heirs: socket.socket | None = None
        self._start(replaced)
        while (status := self._exit_status()) is None:
            if not self._is_up and self._answers():
                self._is_up = True
                self.folder.known.write_text(self.text)
                heirs = listen_unix(self.folder.keeper_socket)
                poll.register(heirs, select.POLLIN)
                os.write(ready, b"1")
            events = poll.poll(self._patience_ms())
            # One time for all: in which of two orders they ended is not told.
            now_s = time.monotonic()
            for descriptor, _ in events:
                if descriptor == wakeup:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wakeup, 1024)
                elif heirs is not None and descriptor == heirs.fileno():
                    self._hand_over(heirs)
                else:
                    poll.unregister(descriptor)
                    self._gone_s[descriptor] = now_s
            if not self._is_needed():
                self.folder.known.unlink(missing_ok=True)
                self._pass_on(signal.SIGTERM)
        return status

    def _start(self, replaced: int | None = None) -> None:
        descriptors = {place: each.fileno() for place, each in self.listeners.items()}
        for descriptor in descriptors.values():
            os.set_inheritable(descriptor, True)
        text = rewrite(
            self.text,
            descriptors,
            self.folder.haproxy_socket,
            is_state_fresh=self.is_state_fresh,
        )
        self.is_state_fresh = False
        self.folder.configuration.write_text(text)
        files = ["-f", str(self.folder.configuration), "-f", str(haproxy.CONFIG)]
        replacing = [] if replaced is None else ["-sf", str(replaced)]
        binary, *arguments = self.command
        self._started_s = time.monotonic()
        self._child = os.posix_spawn(binary, [binary, *arguments, *files, *replacing], os.environ)
        if self._is_stopping:
            # The signal may have come before there was somebody to pass it on to.
            self._pass_on(signal.SIGTERM)

    def _exit_status(self) -> int | None:
        """Return HAProxy's exit status if it could not start, or ended as it was told; start it
        again if it ended otherwise."""
        pid, waited = os.waitpid(self._child, os.WNOHANG)
        if pid == 0:
            return None
        if self._is_stopping or not self._is_up:
            return exit_status(waited)
        time.sleep(max(0.0, self._started_s + RESTART_PERIOD_S - time.monotonic()))
        self._start()
        return None

    def _answers(self) -> bool:
        return running_pid(self.folder.haproxy_socket) == self._child

    def _watched(self) -> list[int]:
        relatives = (self.relatives.actor, self.relatives.raylet, self.relatives.launcher)
        return [descriptor for descriptor in relatives if descriptor is not None]

    def _patience_ms(self) -> float | None:
        if not self._is_up:
            return UP_POLL_S * 1e3
        return 250 if self._gone_s else None

    def _is_needed(self) -> bool:
        """Whether Serve lives, or may come back."""
        gone_s = self._gone_s
        actor, launcher = self.relatives.actor, self.relatives.launcher
        if self._is_stopping:
            return True
        if self.relatives.raylet in gone_s:
            return False
        if actor is None or actor not in gone_s:
            return True
        is_orderly = (
            launcher is not None
            and launcher in gone_s
            and 0 <= gone_s[actor] - gone_s[launcher] < ORDERLY_S
        )
        return not is_orderly and time.monotonic() - gone_s[actor] < SUCCESSOR_S

    def _pass_on(self, number: int, _frame: object = None) -> None:
        self._is_stopping = True
        if self._child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, number)

    def _hand_over(self, heirs: socket.socket) -> None:
        with contextlib.suppress(OSError), heirs.accept()[0] as heir:
            heir.settimeout(ANSWER_TIMEOUT_S)
            descriptors = [listener.fileno() for listener in self.listeners.values()]
            socket.send_fds(heir, [str(os.getpid()).encode()], descriptors)


def exit_status(waited: int) -> int:
    """Return what a process ends with that stands for one of which this was waited for."""
    code = os.waitstatus_to_exitcode(waited)
    return code if code >= 0 else 128 - code


def ask_keeper(path: str) -> Handover | None:
    """Return what the keeper that runs now hands over; None where there is none."""
    try:
        with connect(path) as keeper:
            pid, descriptors, _, _ = socket.recv_fds(keeper, 64, 16)
    except OSError:
        return None
    listeners = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    by_place = {Place(*each.getsockname()[:2]): each for each in listeners}
    return Handover(int(pid), by_place) if pid else None


def ask_haproxy(path: str, command: bytes) -> bytes:
    """Return HAProxy's answer to a line on its admin socket."""
    with connect(path) as haproxy_socket:
        haproxy_socket.sendall(command)
        answer = b""
        while piece := haproxy_socket.recv(1 << 16):
            answer += piece
    return answer


def running_pid(path: str) -> int | None:
    """Return the process id of the HAProxy that answers on an admin socket, if one does."""
    try:
        answer = ask_haproxy(path, b"show info\n")
    except OSError:
        return None
    found = [line for line in answer.splitlines() if line.startswith(b"Pid:")]
    return int(found[0].split(b":")[1]) if found else None


def connect(path: str) -> socket.socket:
    """Return a connection to a socket in the file system."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(ANSWER_TIMEOUT_S)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


def listen_unix(path: str) -> socket.socket:
    """Listen in the file system, for this user alone, in the place of who listened there before."""
    listener = socket.socket(socket.AF_UNIX)
    own = f"{path}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(own)
    mask = os.umask(0o177)
    try:
        listener.bind(own)
    finally:
        os.umask(mask)
    listener.listen()
    os.rename(own, path)
    return listener
