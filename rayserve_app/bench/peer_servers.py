"""Servers of others as children of the bench, each in an environment of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import psutil

from rayserve_app.bench.answer import fetch
from rayserve_app.bench.instance import Log, NotReady, free_port
from rayserve_app.bench.load import Target
from rayserve_app.errors import ConfigurationError
from rayserve_app.operations.server import processes

ENVIRONMENTS: Final = Path(".venv-peers")
"""What `make bench-peers` makes, a folder per package."""

PROGRAMS: Final = Path(__file__).with_name("peers")
PROJECT: Final = Path(__file__).parents[2]
"""Where the programs find the models that they serve, rayserve_app.bench's own."""

READY_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 5.0


class Place(NamedTuple):
    """Where one server runs."""

    bin: Path
    """The programs of its environment."""
    folder: Path
    """For its files; gone when it ends."""
    port: int


class Route(NamedTuple):
    """How one model of a server is asked."""

    path: str
    wrap: Callable[[bytes, str], tuple[bytes, str]]
    """Returns the body and content type of a request, from those of what it carries."""
    read: Callable[[bytes], Any]
    """Returns the result, from an answer's body."""


PREDICT: Final = "predict"
"""The name of the route of a server that has only one, or none that is another's equal."""


class Peer(NamedTuple):
    """A server for one job."""

    name: str
    package: str
    """On PyPI; also the name of its environment."""
    command: Callable[[Place], list[str]]
    routes: Mapping[str, Route]
    variables: Mapping[str, str] = {}
    """Of its environment."""

    def label(self, environments: Path = ENVIRONMENTS) -> str:
        """Return the name and the version that is installed."""
        found = environments.glob(f"{self.package}/lib/python*/site-packages/{self.package}-*")
        versions = [each.name.split("-")[1] for each in found if each.suffix == ".dist-info"]
        return " ".join([self.name, *(each.removesuffix(".dist") for each in versions)])


class PeerServer:
    """A context manager: inside, the server runs."""

    def __init__(self, peer: Peer, environments: Path = ENVIRONMENTS) -> None:
        self.peer = peer
        self._bin = (environments / peer.package / "bin").absolute()
        self._port = free_port()
        self._exits = ExitStack()
        self._child: processes.Child | None = None
        self._log: Log | None = None

    def target(self, body: bytes, content_type: str, route: str = PREDICT) -> Target:
        """Return a request that carries this."""
        asked = self.peer.routes[route]
        url = f"http://127.0.0.1:{self._port}{asked.path}"
        return Target.post(url, *asked.wrap(body, content_type))

    async def answer(self, body: bytes, content_type: str, route: str = PREDICT) -> Any:
        """Return the result for one request, which waits its turn behind all that are queued."""
        answer = await fetch(self.target(body, content_type, route))
        return self.peer.routes[route].read(answer.body)

    async def wait_until_ready(self, body: bytes, content_type: str) -> None:
        """Wait until a request to each route is answered 200.

        Raises:
            NotReady: none was in time, or the server ended.
        """
        give_up_at = time.monotonic() + READY_TIMEOUT_S
        for route in self.peer.routes:
            await self._wait_for(self.target(body, content_type, route), give_up_at)

    async def _wait_for(self, target: Target, give_up_at: float) -> None:
        while time.monotonic() < give_up_at and self._child and self._child.poll() is None:
            with suppress(OSError, EOFError, TimeoutError):
                if (await fetch(target)).status == 200:
                    return
            await asyncio.sleep(0.1)
        last_lines = self._log.last_lines if self._log else ()
        raise NotReady("\n".join([f"{self.peer.name} is not ready:", *last_lines]))

    def cpu_seconds(self) -> float:
        """Return what its processes have computed until now."""
        seconds = 0.0
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                seconds += sum(process.cpu_times()[:2])
        return seconds

    def suspend(self) -> None:
        """Stop the clock of all its processes, until `resume`."""
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def resume(self) -> None:
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def __enter__(self) -> Self:
        folder = Path(self._exits.enter_context(tempfile.TemporaryDirectory(prefix="rp")))
        # What its main process leaves behind is then found below this process, and ended.
        processes.become_subreaper()
        command = self.peer.command(Place(self._bin, folder, self._port))
        self._child, lines = processes.start(
            command, {**_environment(folder), **self.peer.variables}
        )
        self._exits.callback(self._stop, self._child)
        self._log = Log(lines)
        self._log.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._exits.close()

    def _processes(self) -> list[psutil.Process]:
        if self._child is None:
            return []
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self._child.pid)
            return [parent, *parent.children(recursive=True)]
        return []

    def _stop(self, child: processes.Child) -> None:
        self.resume()
        remaining = self._processes()
        child.send_signal(signal.SIGINT)
        _, remaining = psutil.wait_procs(remaining, timeout=STOP_TIMEOUT_S)
        processes.send_signal(remaining, signal.SIGKILL)
        psutil.wait_procs(remaining, timeout=STOP_TIMEOUT_S)
        child.wait()


def require_environments(peers: Iterable[Peer], environments: Path = ENVIRONMENTS) -> None:
    """Raise ConfigurationError unless every peer is installed."""
    for peer in peers:
        if not (environments / peer.package / "bin" / "python").exists():
            raise ConfigurationError(
                f"{peer.name} is not installed in {environments / peer.package}",
                remedy="`make bench-peers` installs it",
            )


def _environment(folder: Path) -> Mapping[str, str]:
    own = dict.fromkeys(("HOME", "TMPDIR", "BENTOML_HOME"), str(folder))
    return {
        **os.environ,
        **own,
        "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONPATH": os.pathsep.join(map(str, (PROGRAMS, PROJECT))),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
