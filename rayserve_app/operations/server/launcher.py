"""The process that Serve starts as HAProxy, and takes for it (haproxy.py says why).

Serve (ray/serve/_private/haproxy.py, Ray 2.60) starts it anew at each change of its configuration,
waits until the admin socket tells the process id that it has started, looks for its configuration
file in that process's command line, asks it by SIGUSR1 to end when the next one is up, and kills it
when all is to end.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from rayserve_app.operations.server.haproxy_config import Place, admin_socket, listen_at, places
from rayserve_app.operations.server.keeper import (
    STOP_SIGNALS,
    Folder,
    Handover,
    Keeper,
    Relatives,
    ask_haproxy,
    ask_keeper,
    exit_status,
    listen_unix,
    running_pid,
)

BIND_TIMEOUT_S: Final = 2.0

COMMAND_TIMEOUT_S: Final = 1.0

PID: Final = re.compile(rb"^Pid: \d+$", re.MULTILINE)


def launch(binary: str, arguments: Sequence[str]) -> int:
    """Run HAProxy until it is told to end, as Serve starts it.

    Args:
        arguments: HAProxy's; of them, its configuration and what it is to replace are acted on.
    Returns: the exit status.
    """
    # Ray may end all of an actor's process group with it.
    with contextlib.suppress(OSError):
        os.setsid()
    relatives = _relatives()
    config_path = Path(arguments[arguments.index("-f") + 1])
    folder = Folder(config_path.parent)
    is_reload = "-sf" in arguments
    # A new actor of Serve's does not know the applications yet.
    is_known = not is_reload and folder.known.exists()
    text = (folder.known if is_known else config_path).read_text()
    before = ask_keeper(folder.keeper_socket)
    try:
        listeners = _listeners(text, before, folder, is_shared="-dR" not in arguments)
    except OSError as error:
        print(f"rayserve-haproxy: {error}", file=sys.stderr)
        return 1
    keeper = Keeper(
        [binary, *_own_arguments(arguments)],
        text,
        folder,
        listeners,
        relatives,
        is_state_fresh=is_reload,
    )
    path = admin_socket(text)
    assert path is not None
    try:
        return Launcher(keeper, path).run(None if before is None else before.keeper)
    finally:
        Path(folder.haproxy_socket).unlink(missing_ok=True)


class Launcher:
    """Stands for the keeper and its HAProxy before Serve."""

    def __init__(self, keeper: Keeper, admin_path: str) -> None:
        self._keeper = keeper
        self._admin_path = admin_path
        self._keeper_pid = 0
        self._ready: int | None = None
        """A descriptor that can be read once the keeper's HAProxy is up."""
        self._front: socket.socket | None = None
        self._is_stopping = False

    def run(self, replaced: int | None) -> int:
        """Answer Serve until the keeper ends; return its exit status.

        Args:
            replaced: the keeper that is to stop once HAProxy is up, if any.
        """
        wakeup, writer = os.pipe()
        for descriptor in (wakeup, writer):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in STOP_SIGNALS:
            signal.signal(number, self._pass_on)
        self._start_keeper(replaced)
        while (status := self._keeper_status()) is None:
            watched = [each for each in (wakeup, self._ready, self._front) if each is not None]
            readable, _, _ = select.select(watched, [], [])
            with contextlib.suppress(BlockingIOError):
                os.read(wakeup, 1024)
            if self._ready in readable:
                self._look_whether_up(self._ready)
            if self._front in readable:
                self._answer(self._front)
        return status

    def _start_keeper(self, replaced: int | None) -> None:
        self._ready, writer = os.pipe()
        launcher = os.pidfd_open(os.getpid())
        # Nobody stops the keeper before it knows how to stop HAProxy.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        self._keeper_pid = os.fork()
        if self._keeper_pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
            os.close(writer)
            os.close(launcher)
            return
        status = 1
        try:
            if self._front is not None:
                self._front.close()
            self._keeper.relatives = replace(self._keeper.relatives, launcher=launcher)
            status = self._keeper.run(replaced, writer)
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(status)

    def _look_whether_up(self, ready: int) -> None:
        if os.read(ready, 1) and self._front is None:
            self._front = listen_unix(self._admin_path)
        os.close(ready)
        self._ready = None

    def _keeper_status(self) -> int | None:
        """Return the keeper's exit status if it has ended; start another if it was killed, which
        replaces the HAProxy that is left, unless that was about to be replaced anyway."""
        pid, waited = os.waitpid(self._keeper_pid, os.WNOHANG)
        if pid == 0:
            return None
        if os.WIFEXITED(waited) or self._is_stopping:
            return exit_status(waited)
        left = running_pid(self._keeper.folder.haproxy_socket)
        if ask_keeper(self._keeper.folder.keeper_socket) is not None:
            _stop(left, signal.SIGUSR1)
            return 0
        self._keeper.is_state_fresh = False
        self._start_keeper(left)
        return None

    def _pass_on(self, number: int, _frame: object) -> None:
        self._is_stopping = True
        _stop(self._keeper_pid or None, signal.Signals(number))

    def _answer(self, listener: socket.socket) -> None:
        """Pass a command on to HAProxy, under this process's id. Serve's commands are one line, and
        their answers end with the connection."""
        with contextlib.suppress(OSError), listener.accept()[0] as asker:
            asker.settimeout(COMMAND_TIMEOUT_S)
            command = b""
            while not command.endswith(b"\n") and (piece := asker.recv(4096)):
                command += piece
            answer = ask_haproxy(self._keeper.folder.haproxy_socket, command)
            asker.sendall(PID.sub(b"Pid: %d" % os.getpid(), answer))


def _relatives() -> Relatives:
    """Return Serve's actor, which has started this process, and the raylet that has started it."""
    actor = os.getppid()
    # proc(5): after the name, in parentheses, the state and the parent.
    stat = Path(f"/proc/{actor}/stat").read_text()
    raylet = int(stat.rpartition(")")[2].split()[1])
    return Relatives(*(_watch(pid) for pid in (actor, raylet)))


def _watch(pid: int) -> int | None:
    """Return a descriptor that can be read once a process has ended; None for who never does."""
    try:
        return os.pidfd_open(pid) if pid > 1 else None
    except OSError:
        return None


def _listeners(
    text: str, before: Handover | None, folder: Folder, *, is_shared: bool
) -> dict[Place, socket.socket]:
    """Return the sockets of all places, those that are there already first.

    Raises:
        OSError: somebody else has one of them.
    """
    inherited = {} if before is None else before.listeners
    if before is None:
        # A keeper that was killed together with its launcher, who would have started another.
        for path in folder.haproxy_sockets:
            _stop(running_pid(path), signal.SIGTERM)
    return {
        place: inherited.get(place) or _bind(place, is_shared=is_shared) for place in places(text)
    }


def _bind(place: Place, *, is_shared: bool) -> socket.socket:
    """Bind a place that who has it may be about to leave."""
    deadline_s = time.monotonic() + BIND_TIMEOUT_S
    while True:
        try:
            return listen_at(place, is_shared=is_shared)
        except OSError as error:
            if time.monotonic() > deadline_s:
                message = f"cannot listen on {place.host}:{place.port}: {error.strerror}"
                raise OSError(error.errno, message) from error
            time.sleep(0.05)


def _stop(haproxy: int | None, number: signal.Signals) -> None:
    if haproxy is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(haproxy, number)


def _own_arguments(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without files and what is to be replaced, which Serve puts last."""
    own = list(arguments)
    if "-sf" in own:
        del own[own.index("-sf") :]
    del own[own.index("-f") : own.index("-f") + 2]
    return own
