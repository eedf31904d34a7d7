"""Servers of others as children of the bench, each in an environment of its own, and how each is
configured for each job; what they run stands in peers/.

Where a documentation leaves a choice, what was fastest here was taken. On the job with a model of
50 ms per batch each has one model that runs one batch at a time, as one device does, and batches of
up to 32.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import psutil

from rayserve_app.bench.envelopes import BOUNDARY, form
from rayserve_app.bench.instance import Log, NotReady, free_port
from rayserve_app.bench.load import Target, fetch
from rayserve_app.errors import ConfigurationError
from rayserve_app.operations.server import processes
from rayserve_app.process.cores import available_cores

ENVIRONMENTS: Final = Path(".venv-peers")
"""What `make bench-peers` makes, a folder per package."""

PROGRAMS: Final = Path(__file__).with_name("peers")
PROJECT: Final = Path(__file__).parents[2]
"""Where the programs find the models that they serve, rayserve_app.bench's own."""

READY_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 5.0
BATCH_WAIT_S: Final = 0.05
"""MLServer's `max_batch_time`. Below the time of a batch its queue grows: it starts a batch
whenever this has passed, whatever its worker does."""

PREDICT, BASE64, FAST, SLOW = "predict", "base64", "fast", "slow"
"""The names of routes."""

Body: TypeAlias = tuple[bytes, str]
"""With its content type."""


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
    wrap: Callable[[bytes, str], Body]
    """Returns a request's body, from the body and content type of what it carries."""
    read: Callable[[bytes], Any]
    """Returns the result, from an answer's body."""


class Peer(NamedTuple):
    """A server for one job."""

    name: str
    command: Callable[[Place], list[str]]
    routes: Mapping[str, Route]
    variables: Mapping[str, str] = {}
    """Of its environment."""

    @property
    def package(self) -> str:
        """On PyPI; also the name of its environment."""
        return self.name.lower()

    def label(self, environments: Path = ENVIRONMENTS) -> str:
        """Return the name and the version that is installed."""
        found = environments.glob(f"{self.package}/lib/python*/site-packages/{self.package}-*")
        versions = [each.stem.split("-")[1] for each in found if each.suffix == ".dist-info"]
        return " ".join([self.name, *versions])


class PeerServer:
    """A server that runs; `running` starts it."""

    def __init__(self, peer: Peer, child: processes.Child, log: Log, port: int) -> None:
        self.peer = peer
        self._child = child
        self._log = log
        self._port = port

    def target(self, body: bytes, content_type: str, route: str = PREDICT) -> Target:
        """Return a request that carries this."""
        asked = self.peer.routes[route]
        url = f"http://127.0.0.1:{self._port}{asked.path}"
        return Target.post(url, *asked.wrap(body, content_type))

    async def wait_until_ready(self, body: bytes, content_type: str) -> None:
        """Wait until a request to each route is answered 200.

        Raises:
            NotReady: none was in time, or the server ended.
        """
        give_up_at = time.monotonic() + READY_TIMEOUT_S
        for route in self.peer.routes:
            while not await self._answers(self.target(body, content_type, route)):
                if time.monotonic() > give_up_at or self._child.poll() is not None:
                    lines = (f"{self.peer.name} is not ready:", *self._log.last_lines)
                    raise NotReady("\n".join(lines))
                await asyncio.sleep(0.1)

    async def _answers(self, target: Target) -> bool:
        with suppress(OSError):
            return (await fetch(target)).status == 200
        return False

    def suspend(self) -> None:
        """Stop the clock of all its processes, until `resume`."""
        processes.send_signal(self.processes, signal.SIGSTOP)

    def resume(self) -> None:
        processes.send_signal(self.processes, signal.SIGCONT)

    @property
    def processes(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self._child.pid)
            return [parent, *parent.children(recursive=True)]
        return []

    def stop(self) -> None:
        self.resume()
        remaining = self.processes
        self._child.send_signal(signal.SIGINT)
        _, remaining = psutil.wait_procs(remaining, timeout=STOP_TIMEOUT_S)
        processes.send_signal(remaining, signal.SIGKILL)
        psutil.wait_procs(remaining, timeout=STOP_TIMEOUT_S)
        self._child.wait()


@contextmanager
def running(peer: Peer, environments: Path = ENVIRONMENTS) -> Iterator[PeerServer]:
    """Run a server, with a folder and a home of its own."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rp")))
        # What its main process leaves behind is then found below this process, and ended.
        processes.become_subreaper()
        place = Place((environments / peer.package / "bin").absolute(), folder, free_port())
        environment = {
            **os.environ,
            **dict.fromkeys(("HOME", "TMPDIR", "BENTOML_HOME"), str(folder)),
            "BENTOML_DO_NOT_TRACK": "True",
            "PYTHONPATH": os.pathsep.join(map(str, (PROGRAMS, PROJECT))),
            "PYTHONDONTWRITEBYTECODE": "1",
            **peer.variables,
        }
        child, lines = processes.start(peer.command(place), environment)
        server = PeerServer(peer, child, Log(lines), place.port)
        stack.callback(server.stop)
        yield server


def require_environments(environments: Path = ENVIRONMENTS) -> None:
    """Raise ConfigurationError unless every peer is installed."""
    for peer in JOBS["sizes"]:
        if not (environments / peer.package / "bin" / "python").exists():
            raise ConfigurationError(
                f"{peer.name} is not installed in {environments / peer.package}",
                remedy="`make bench-peers` installs it",
            )


def raw(body: bytes, content_type: str) -> Body:
    """Send what is to be sent as it is."""
    return body, content_type


def _json(document: Any) -> Body:
    return json.dumps(document).encode(), "application/json"


def _tensor(datatype: str, data: Any, **parameters: str) -> Body:
    tensor = {"name": "inputs", "shape": [1, 1], "datatype": datatype, "data": [data]}
    return _json({"inputs": [{**tensor, "parameters": parameters}]})


def _base64_tensor(body: bytes, content_type: str) -> Body:
    return _tensor("BYTES", b64encode(body).decode(), content_type="base64")


def _file_of_form(body: bytes, content_type: str) -> Body:
    """BentoML batches lists: a request has one of one file, which `list[Path]` takes."""
    return form(body, content_type), f"multipart/form-data; boundary={BOUNDARY}"


def _output(body: bytes) -> Any:
    return json.loads(body)["outputs"][0]["data"]


def litserve(job: str, workers: int, routes: Mapping[str, Route]) -> Peer:
    def command(place: Place) -> list[str]:
        program = str(PROGRAMS / "litserve_api.py")
        return [str(place.bin / "python"), program, job, str(place.port), str(workers)]

    return Peer("LitServe", command, routes)


def bentoml(service: str, routes: Mapping[str, Route]) -> Peer:
    def command(place: Place) -> list[str]:
        return [
            *(str(place.bin / "bentoml"), "serve", f"bentoml_service:{service}"),
            *("--working-dir", str(PROGRAMS), "--host", "127.0.0.1", "--port", str(place.port)),
        ]

    return Peer("BentoML", command, routes)


def mlserver(
    models: Mapping[str, tuple[str, Mapping[str, Any]]],
    workers: int,
    wrap: Callable[[bytes, str], Body] = _base64_tensor,
    read: Callable[[bytes], Any] = _output,
) -> Peer:
    """Return one with these models, by name, each a runtime and more of its settings. Its REST API
    takes JSON alone, an image in base64."""

    def command(place: Place) -> list[str]:
        """Write the settings' files: what can be switched off is off."""
        settings = {
            **{"host": "127.0.0.1", "http_port": place.port, "grpc_port": free_port()},
            **{"debug": False, "metrics_endpoint": None, "gzip_enabled": False},
            **dict.fromkeys(("metrics_dir", "environments_dir"), str(place.folder)),
            "parallel_workers": workers,
        }
        (place.folder / "settings.json").write_text(json.dumps(settings))
        for name, (runtime, others) in models.items():
            model = {"name": name, "implementation": f"mlserver_runtime.{runtime}", **others}
            (place.folder / name).mkdir()
            (place.folder / name / "model-settings.json").write_text(json.dumps(model))
        return [str(place.bin / "mlserver"), "start", str(place.folder)]

    routes = {name: Route(f"/v2/models/{name}/infer", wrap, read) for name in models}
    return Peer("MLServer", command, routes)


RAW: Final = {PREDICT: Route("/predict", raw, json.loads)}
SIZES: Final = {
    **RAW,
    BASE64: Route(
        "/base64", lambda body, _: _json({"image": b64encode(body).decode()}), json.loads
    ),
}
NEIGHBOURS: Final = {name: Route(f"/{name}", raw, json.loads) for name in (FAST, SLOW)}
LARGE: Final = {PREDICT: Route("/predict", raw, bytes)}
LISTED: Final = {
    PREDICT: Route(
        "/predict",
        lambda body, _: _json({"inputs": [body.decode()]}),
        lambda body: json.loads(body)[0],
    )
}
FILES: Final = {PREDICT: Route("/predict", _file_of_form, lambda body: json.loads(body)[0])}
# In the server's process: with its one or two workers it was slower.
MLSERVER_SIZES: Final = mlserver({PREDICT: ("ImageSize", {})}, 0)
CORES: Final = available_cores()

JOBS: Final[Mapping[str, Sequence[Peer]]] = {
    # An image's size, through what each calls its model.
    "sizes": (
        litserve("ImageSize", CORES, SIZES),
        bentoml("ImageSize", SIZES),
        MLSERVER_SIZES._replace(routes=dict.fromkeys(SIZES, MLSERVER_SIZES.routes[PREDICT])),
    ),
    # A model of 50 ms per batch, through each one's batcher.
    "batches": (
        litserve("Sleep", 1, RAW),
        bentoml("Sleep", LISTED),
        mlserver(
            {PREDICT: ("Sleep", {"max_batch_size": 32, "max_batch_time": BATCH_WAIT_S})},
            1,
            lambda body, _: _tensor("INT32", len(body)),
            lambda body: _output(body)[0],
        ),
    ),
    # The bench's network: batches of up to 8, one on each core.
    "network": (
        litserve("Network", CORES, RAW),
        bentoml("Network", FILES),
        mlserver(
            {PREDICT: ("Network", {"max_batch_size": 8, "max_batch_time": BATCH_WAIT_S})}, CORES
        ),
    ),
    # A packed stream of ten JPEGs to 54.8 MB; MLServer's in base64, for its API answers JSON.
    "large answers": (
        litserve("Heads", 1, LARGE),
        bentoml("Heads", LARGE),
        mlserver({PREDICT: ("Heads", {})}, 0, read=lambda body: b64decode(_output(body)[0])),
    ),
    # A JPEG that is decoded whole, and no model to speak of.
    "decoding": (
        litserve("Colors", CORES, RAW),
        bentoml("Colors", RAW),
        mlserver({PREDICT: ("Colors", {})}, CORES),
    ),
    # An image's size beside the texture of an image, each in a process of its own: in MLServer a
    # pool of workers is several models' unless its group says otherwise.
    "neighbours": (
        litserve("Neighbours", 1, NEIGHBOURS),
        bentoml("Neighbours", NEIGHBOURS),
        mlserver(
            {
                FAST: ("ImageSize", {"parameters": {"inference_pool_gid": FAST}}),
                SLOW: ("Texture", {"parameters": {"inference_pool_gid": SLOW}}),
            },
            1,
        ),
    ),
}
