"""A model whose replica is a laboratory: it hides, changes or renames one private name of Serve's,
Ray's or uvicorn's, starts a further HTTP server of its own as Serve does, and asks itself.

Names are hidden from the room that uses them alone, for Serve itself needs them.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import io
import json
import logging
import sys
import tokenize
import types
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from enum import Enum
from typing import Any, Final

import ray
import uvicorn.server
from ray._private.worker import global_worker
from ray.actor import ActorHandle
from ray.serve._private import (
    common,
    http_util,
    long_poll,
    request_ingress_metrics,
    rolling_window,
    utils,
)
from ray.serve._private import config as serve_config
from ray.serve._private import replica as serve_replica
from ray.serve.config import HTTPOptions
from ray.serve.context import ReplicaContext
from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http import flow_control, httptools_impl

from deployments.internals import rehearsal, replica_config
from deployments.internals.versions import warn

ROOM: Final = "deployments.internals."

IMPORTED_WHEN_USED: Final = ("accounts", "connection", "served_models", "sockets")

SHORTER_S: Final = 0.5
"""How long a rehearsal waits where it is to fail anyway."""

PATIENCE_S: Final = rehearsal.TIMEOUT_S

REQUESTS: Final = 3

BACKGROUND: Final[set[Any]] = set()
"""Servers that end by themselves."""

CLASSES: Final[tuple[type, ...]] = (
    ActorHandle,
    HTTPOptions,
    ReplicaContext,
    common.DeploymentID,
    flow_control.FlowControl,
    http_util.RequestIdMiddleware,
    httptools_impl.HttpToolsProtocol,
    httptools_impl.RequestResponseCycle,
    long_poll.UpdatedObject,
    rolling_window.RollingWindowAccumulator,
    serve_config.DeploymentConfig,
    serve_replica.Replica,
    serve_replica.ReplicaMetricsManager,
    serve_replica.UserCallableWrapper,
    utils.Semaphore,
    uvicorn.Config,
    uvicorn.server.ServerState,
)
"""Whose instances have the names that may be hidden."""


def respond(inputs: Sequence[str]) -> list[str]:
    """Answer in capitals; to `hide MODULE NAME` and the like, what then became of requests."""
    return [json.dumps(_try(*word.split())) if " " in word else word.upper() for word in inputs]


def _try(verb: str, module: str, *rest: str) -> dict[str, Any]:
    (actor,) = global_worker.actors.values()
    replica = actor._replica_impl
    with ExitStack() as stack:
        heard = stack.enter_context(_hearing())
        stack.enter_context(_not_yet_imported())
        stack.enter_context(VERBS[verb](*rest))
        rehearsal.TIMEOUT_S = PATIENCE_S if verb == "leave" else SHORTER_S  # type: ignore[misc]
        work = _ask_controller() if module == "served_models" else _ask_itself(replica)
        answers = asyncio.run_coroutine_threadsafe(work, replica._event_loop).result(30)
    return {"answers": answers, "warnings": heard}


async def _ask_itself(replica: Any) -> list[Any]:
    """Ask a further server of this replica, started as Serve starts the first one."""
    context = ray.serve.get_replica_context()
    replica_config.max_ongoing_requests(context)
    replica_config.logging_config(context)
    before = HTTP_PROTOCOLS["auto"]
    options = http_util.configure_http_middlewares(HTTPOptions(host="127.0.0.1", port=0))
    task, server = await http_util.start_asgi_http_server(
        replica._direct_ingress_asgi, options, event_loop=replica._event_loop
    )
    while not server.started:
        await asyncio.sleep(0.01)
    HTTP_PROTOCOLS["auto"] = before
    port = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}{replica._route_prefix}"
    try:
        return [await asyncio.to_thread(_post, url, f"word{n}") for n in range(REQUESTS)]
    finally:
        server.should_exit = server.force_exit = True
        BACKGROUND.add(task)


async def _ask_controller() -> list[Any]:
    """Find this model as a gateway does, before and after something changed, and ask it."""
    from deployments.internals.served_models import Controller, served_models

    controller, changes = Controller(), asyncio.Event()
    name = ray.serve.get_replica_context().app_name
    listening = asyncio.create_task(controller.listen(changes.set))
    model = served_models(await controller.ask(), {})[name]
    hearing = asyncio.create_task(changes.wait())
    await asyncio.wait([listening, hearing], return_when=asyncio.FIRST_COMPLETED)
    hearing.cancel()
    listening.cancel()
    models = [model, served_models(await controller.ask(), {})[name]]
    models.append(served_models(await controller.ask(), {})[name])
    urls = [f"http://{host}:{port}{each.prefix}" for each in models for host, port in each.replicas]
    return [await asyncio.to_thread(_post, url, f"word{n}") for n, url in enumerate(urls)]


def _post(url: str, word: str) -> Any:
    body = json.dumps({"input": word}).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{url}/predict", body, headers)
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)["output"]


@contextmanager
def _hearing() -> Iterator[list[str]]:
    """Yield what is warned of, by Serve too."""
    heard: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in ("deployments", "rayserve_app", "ray.serve")]
    for logger in loggers:
        logger.addHandler(handler)
    warner: Any = warn.__self__  # type: ignore[attr-defined]
    warner._has_warned = False
    try:
        yield heard
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


@contextmanager
def _not_yet_imported() -> Iterator[None]:
    names = [ROOM + name for name in IMPORTED_WHEN_USED]
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    try:
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(before)


MISSING: Final = object()


@contextmanager
def _shown(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Show another value of an attribute to the room, or none; the owner is a module, or the class
    of those whose attribute it is."""

    def guarding(get: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
        def getattribute(self: Any, attribute: str) -> Any:
            if attribute != name or not _is_of_room(sys._getframe(1)):
                return get(self, attribute)
            if value is MISSING:
                raise AttributeError(f"There is no {name!r}")
            return value

        return getattribute

    with ExitStack() as stack:
        if isinstance(owner, types.ModuleType):
            guard = {"__getattribute__": guarding(types.ModuleType.__getattribute__)}
            owner.__class__ = type("Module", (types.ModuleType,), guard)
            stack.callback(setattr, owner, "__class__", types.ModuleType)
        else:
            owner.__getattribute__ = guarding(owner.__getattribute__)
            stack.callback(delattr, owner, "__getattribute__")
            if own := vars(owner).get("__getattr__"):
                owner.__getattr__ = guarding(own)
                stack.callback(setattr, owner, "__getattr__", own)
        yield


def _is_of_room(frame: types.FrameType) -> bool:
    """Return whether the room's code runs there: not that which serves the replica's first server,
    from modules that were imported before."""
    name: str = frame.f_globals.get("__name__", "")
    module = sys.modules.get(name)
    return name.startswith(ROOM) and module is not None and frame.f_globals is vars(module)


def _refusing(function: Callable[..., Any], argument: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if argument in kwargs:
            raise TypeError(f"got an unexpected keyword argument {argument!r}")
        return function(*args, **kwargs)

    return call


@contextmanager
def hide(name: str) -> Iterator[None]:
    """Hide an attribute, a name of a module (with its path) or an argument (`name=`)."""
    with ExitStack() as stack:
        if name.endswith("="):
            metadata = _refusing(common.RequestMetadata, name[:-1])
            stack.enter_context(_shown(common, "RequestMetadata", metadata))
            remote = types.SimpleNamespace(remote=_refusing(lambda: None, name[:-1]))
            stack.enter_context(_shown(ActorHandle, "get_target_groups", remote))
        elif "." in name:
            module, _, last = name.rpartition(".")
            owner = importlib.import_module(module)
            if isinstance(getattr(owner, last), types.ModuleType):
                # `from package import module` looks there too.
                stack.enter_context(_shown(owner, last, types.ModuleType(last)))
            else:
                stack.enter_context(_shown(owner, last, MISSING))
        elif name in dir(request_ingress_metrics.RequestIngressMetrics):
            nothing = types.SimpleNamespace()
            stack.enter_context(_shown(request_ingress_metrics, "RequestIngressMetrics", nothing))
        elif name in dir(common.RequestProtocol):
            other = Enum("RequestProtocol", {"GRPC": "gRPC"})
            stack.enter_context(_shown(common, "RequestProtocol", other))
        elif name in dir(long_poll.LongPollNamespace):
            other = Enum("LongPollNamespace", {"ROUTE_TABLE": 1})
            stack.enter_context(_shown(long_poll, "LongPollNamespace", other))
        elif name.startswith("add_"):
            for module in ("replica", "default_impl"):
                owner = importlib.import_module(f"ray.serve._private.{module}")
                stack.enter_context(_shown(owner, name, MISSING))
        else:
            for owner in CLASSES:
                stack.enter_context(_shown(owner, name, MISSING))
        yield


@contextmanager
def change(name: str, value: str) -> Iterator[None]:
    """Show a value of another type; of what is in a module, by its path."""
    changed = VALUES[value]
    module, _, last = name.rpartition(".")
    owners = [importlib.import_module(module)] if module else CLASSES
    with ExitStack() as stack:
        for owner in owners:
            stack.enter_context(_shown(owner, last, changed))
        yield


@contextmanager
def rename(name: str) -> Iterator[None]:
    """Let uvicorn call something otherwise, all through its connections and their flow control."""
    modules = (flow_control, httptools_impl)
    before = HTTP_PROTOCOLS["auto"]
    try:
        for module in modules:
            renamed = types.ModuleType(module.__name__)
            sys.modules[module.__name__] = renamed
            exec(_with_renamed(inspect.getsource(module), name), renamed.__dict__)
        HTTP_PROTOCOLS["auto"] = f"{httptools_impl.__name__}:HttpToolsProtocol"
        yield
    finally:
        HTTP_PROTOCOLS["auto"] = before
        for module in modules:
            sys.modules[module.__name__] = module


def _with_renamed(source: str, name: str) -> str:
    """Return source with one name changed, but where it is an attribute of another module's."""
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    result, previous = [], ["", ""]
    for token in tokens:
        is_others = previous[1] == "." and previous[0] in ("config", "server_state", "logging")
        word = f"{name}_2" if token.string == name and not is_others else token.string
        result.append((token.type, word))
        previous = [previous[1], token.string]
    return tokenize.untokenize(result)


@contextmanager
def upgrade(package: str) -> Iterator[None]:
    module: Any = importlib.import_module(package)
    before = module.__version__
    module.__version__ = "99.0.0"
    try:
        yield
    finally:
        module.__version__ = before


@contextmanager
def leave() -> Iterator[None]:
    """Change nothing."""
    yield


VALUES: Final[dict[str, Any]] = {
    "None": None,
    "dict": {},
    "number": 0,
    "proxy": types.MappingProxyType({"auto": "auto"}),
}

VERBS: Final[dict[str, Callable[..., AbstractContextManager[None]]]] = {
    "change": change,
    "hide": hide,
    "leave": leave,
    "rename": rename,
    "upgrade": upgrade,
}
