"""What may import what: the rules of the layout, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
# Programs that we are measured against are no part of the project's layers.
PEERS = "rayserve_app/bench/peers/"

APPLICATIONS = {
    "deployments/application.py",
    "deployments/gateway.py",
    "deployments/queue.py",
}
# The accounts that Serve keeps of requests, and its logger, are its own; nothing public tells of
# them.
RAY = {
    *APPLICATIONS,
    "deployments/logs.py",
    "deployments/serve_accounts.py",
    "deployments/serve_schema.py",
    "deployments/served_models.py",
    "deployments/serve_sockets.py",
}
FRAMEWORKS = ("keras", "mxnet", "sklearn", "tensorflow", "torch")
HTTP = ("starlette", "uvicorn", "httpx", "rayserve_app.http", "rayserve_app.asgi")
NAMES_THAT_HIDE = {"utils", "util", "common", "helpers", "helper", "misc", "manager"}


class Import(NamedTuple):
    """A module that a file imports, and whether whoever imports the file does so too."""

    file: str
    module: str
    is_at_top: bool


@cache
def imports() -> tuple[Import, ...]:
    found: list[Import] = []
    for package in ("rayserve_app", "deployments"):
        for path in sorted((ROOT / package).rglob("*.py")):
            file = path.relative_to(ROOT).as_posix()
            if not file.startswith(PEERS):
                found += _imports_of(ast.parse(path.read_text()), file, is_at_top=True)
    return tuple(found)


def _imports_of(node: ast.AST, file: str, *, is_at_top: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(file, alias.name, is_at_top)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{file} has a relative import"
        for alias in node.names:
            # `from a import b` may import the module `a.b`.
            yield Import(file, f"{node.module}.{alias.name}", is_at_top)
    is_typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    is_later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_typing
    for child in ast.iter_child_nodes(node):
        yield from _imports_of(child, file, is_at_top=is_at_top and not is_later)


def importers(*modules: str, within: str = "", at_top: bool = False) -> set[str]:
    """Return the files below `within` that import one of these modules or a part of it."""
    return {
        file
        for file, module, is_at_top in imports()
        if file.startswith(within)
        and (is_at_top or not at_top)
        and any((module + ".").startswith(name + ".") for name in modules)
    }


def test_the_imports_are_found() -> None:
    assert "deployments/application.py" in importers("ray")
    assert "rayserve_app/codecs/json.py" in importers("orjson", at_top=True)
    assert "rayserve_app/preprocessing.py" in importers("cv2") - importers("cv2", at_top=True)
    assert "rayserve_app/protocols/clipper/service.py" in importers("rayserve_app.codecs.json")


def test_ray_is_imported_at_the_rim_only() -> None:
    assert importers("ray") <= RAY


def test_frameworks_are_imported_by_nothing_that_is_only_imported() -> None:
    assert importers(*FRAMEWORKS, at_top=True) == set()


@pytest.mark.parametrize(
    ("layer", "others"),
    [
        (
            "rayserve_app/codecs/",
            (*HTTP, "deployments", "rayserve_app.protocols", "rayserve_app.model"),
        ),
        ("rayserve_app/protocols/", ("deployments", "rayserve_app.backend", "rayserve_app.asgi")),
        ("rayserve_app/", ("deployments",)),
    ],
)
def test_a_layer_knows_nothing_of_those_above(layer: str, others: tuple[str, ...]) -> None:
    assert importers(*others, within=layer) == set()


def test_the_model_knows_nothing_of_http() -> None:
    names = ("model", "inputs", "encoded_inputs", "tensor_inputs", "outputs", "batching")
    names += ("batch_queues", "pace", "answers", "kept_answers", "content", "admission", "cost")
    free = {f"rayserve_app/{name}.py" for name in names}
    assert importers(*HTTP, "rayserve_app.protocols") & free == set()


def test_backends_know_nothing_of_http() -> None:
    assert importers(*HTTP, "rayserve_app.protocols", within="deployments/") <= RAY


def test_modules_are_named_after_what_they_hold() -> None:
    names = {
        path.stem
        for package in ("rayserve_app", "deployments", "tests")
        for path in (ROOT / package).rglob("*")
    }
    assert names & NAMES_THAT_HIDE == set()


BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

BLOCKED = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Blocker())

import rayserve_app.asgi
from rayserve_app.importing import import_from_string
from rayserve_app.protocols import PROTOCOLS
from rayserve_app.codecs import base64, csv, image, json, json_metadata, npy, packed_jpeg, raw

for protocol in PROTOCOLS.values():
    import_from_string(protocol)
print("imported")
"""


def test_the_library_needs_neither_ray_nor_a_framework() -> None:
    blocked = ",".join(("ray", "cloudpickle", *FRAMEWORKS))
    run = subprocess.run(
        [sys.executable, "-c", BLOCKED, blocked],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.stdout.strip() == "imported", run.stderr
