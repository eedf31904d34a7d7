"""The private names of Serve, Ray and uvicorn in the project's source: all are in one room, and all
in the list of its docstring."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import ray.serve
import uvicorn
from ray.serve import Application
from ray.serve._private import (
    common,
    config,
    default_impl,
    long_poll,
    replica,
    rolling_window,
    utils,
)
from ray.serve._private.controller import ServeController
from ray.serve._private.request_ingress_metrics import RequestIngressMetrics
from ray.serve.config import HTTPOptions
from ray.serve.context import ReplicaContext
from uvicorn.config import Config
from uvicorn.protocols.http import flow_control, httptools_impl
from uvicorn.server import ServerState

import deployments.internals

ROOT = Path(__file__).parents[3]
ROOM = Path(deployments.internals.__file__).parent
MODULES = sorted(path.stem for path in ROOM.glob("*.py") if path.stem != "__init__")
PUBLIC = {"uvicorn", "uvicorn.Config", "uvicorn.Server"}
OF_UVICORN: tuple[Any, ...] = (
    Config,
    ServerState,
    flow_control.FlowControl,
    httptools_impl.HttpToolsProtocol,
    httptools_impl.RequestResponseCycle,
)
OF_SERVE: tuple[Any, ...] = (
    HTTPOptions,
    ReplicaContext,
    RequestIngressMetrics,
    common.DeploymentID,
    common.RequestMetadata,
    common.RequestProtocol,
    config.DeploymentConfig,
    long_poll.LongPollNamespace,
    replica.Replica,
    replica.ReplicaMetricsManager,
    replica.UserCallableWrapper,
    rolling_window.RollingWindowAccumulator,
    utils.Semaphore,
)
"""Whose attributes are used, public as they may look: who has the object has got it privately."""
WHOSE: dict[str, tuple[Any, ...]] = {
    "accounts": OF_SERVE,
    "applications": (Application,),
    "connection": OF_UVICORN,
    "replica_config": (ReplicaContext, config.DeploymentConfig),
    "served_models": (ServeController, long_poll.LongPollNamespace, long_poll.UpdatedObject),
    "sockets": (default_impl, replica),
}
OF_TUPLES = {"_asdict", "_fields", "_make", "_replace"}


@cache
def source_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield what a module imports of Ray's private modules, and of uvicorn."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            is_private = parts[0] == "ray" and any(part.startswith("_") for part in parts)
            if is_private or (parts[0] == "uvicorn" and name not in PUBLIC):
                yield name


def spoken(tree: ast.AST) -> set[str]:
    """Return all that may name an attribute of others' objects, or as `name=` an argument."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.keyword) and node.arg:
            names.add(f"{node.arg}=")
        elif isinstance(node, ast.Constant) and str(node.value).startswith("_"):
            names.add(str(node.value))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
    return {name for name in names if not name.startswith("__")}


def defined(tree: ast.AST) -> set[str]:
    """Return the names that a module gives."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.attr if isinstance(node, ast.Attribute) else node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
    return names


def belonging(owner: Any, used: set[str]) -> set[str]:
    """Return a module's names, or a class's attributes and the arguments of methods in use."""
    if inspect.ismodule(owner):
        return set(dir(owner))
    names: set[str] = set()
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    for node in ast.walk(body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
            if node.name in used | {"__init__"}:
                names |= {f"{arg.arg}=" for arg in (*node.args.args, *node.args.kwonlyargs)}
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == f"self.{node.attr}":
            names.add(node.attr)
        elif node in ast.iter_child_nodes(body) and isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            fields = {target.id for target in targets if isinstance(target, ast.Name)}
            names |= fields | {f"{field}=" for field in fields}
    return names


def foreign_names(tree: ast.AST, ours: set[str]) -> set[str]:
    """Return the names with an underscore that are not ours."""
    hidden = {name for name in spoken(tree) if name.startswith("_") and not name.endswith("=")}
    return hidden - ours - OF_TUPLES


def private_names(module: str) -> set[str]:
    tree = source_of(ROOM / f"{module}.py")
    used = spoken(tree)
    belongings = set().union(*(belonging(owner, used) for owner in WHOSE.get(module, ())))
    return {*imported(tree), *foreign_names(tree, defined(tree)), *used & belongings}


def files_of(package: ModuleType) -> Iterator[Path]:
    for folder in package.__path__:
        yield from Path(folder).rglob("*.py")


def listed() -> dict[str, set[str]]:
    """Return the names of the docstring, by module."""
    text = deployments.internals.__doc__ or ""
    sections = re.findall(r"^`(\w+)`: (.*?)\.$", text, re.MULTILINE | re.DOTALL)
    return {module: set(re.split(r",\s+", names)) for module, names in sections}


@pytest.mark.parametrize("module", MODULES)
def test_the_rooms_docstring_lists_all_private_names(module: str) -> None:
    assert listed().get(module, set()) == private_names(module)


def test_no_other_module_uses_any() -> None:
    sources = [path.read_text() for package in (ray.serve, uvicorn) for path in files_of(package)]
    hidden = set(re.findall(r"(?<=\bself\.)_\w+|(?<=\bdef )_\w+", "\n".join(sources)))
    paths = [
        path for room in ("deployments", "rayserve_app") for path in (ROOT / room).rglob("*.py")
    ]
    ours = set().union(*(defined(source_of(path)) for path in paths))
    used = {
        path.relative_to(ROOT).as_posix(): {
            *imported(source_of(path)),
            *(foreign_names(source_of(path), ours) & hidden),
        }
        for path in paths
        if path.parent != ROOM
    }
    assert {path: names for path, names in used.items() if names} == {}
