"""What may import what: the rules of the layout, read from the source."""

from __future__ import annotations

import ast
import re
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

# A room is a module or a package of rayserve_app, or of deployments. Beside each stands what it
# imports, all of which stands above it: so there is no circle.
ROOMS = {
    "errors": "",
    "importing": "errors",
    "media_types": "",
    "types": "errors",
    "metrics": "",
    "process": "errors metrics",
    "settings": "errors importing",
    "codecs": "errors types",
    "artifacts": "errors",
    "payloads": "errors media_types types settings codecs",
    "inference": "errors types metrics process settings codecs payloads",
    "web": "errors media_types types process settings codecs",
    "protocols": (
        "errors media_types types metrics process settings codecs artifacts payloads inference web"
    ),
    "app": "errors importing metrics settings codecs inference web protocols",
    "gateway": "errors importing media_types types metrics settings codecs web protocols",
    "client": "errors media_types types codecs",
    "examples": "errors types artifacts",
    "operations": "errors importing process settings",
    "deployments.internals": "errors types settings web protocols gateway operations",
    "bench": (
        "errors importing types process settings codecs artifacts inference web app "
        "operations deployments.internals"
    ),
    "cli": "errors examples operations bench",
    "deployments.replica": (
        "errors media_types types metrics process settings payloads inference app "
        "deployments.internals"
    ),
    "deployments.model_files": "errors",
    "deployments.closure": (
        "errors importing types settings codecs artifacts inference deployments.replica"
    ),
    "deployments.gateway": "settings gateway deployments.internals deployments.replica",
    "deployments.mxnet": (
        "errors importing types process settings artifacts payloads inference "
        "deployments.replica deployments.model_files"
    ),
    "deployments.serve_schema": "errors settings operations",
    "deployments.tensorflow": (
        "errors types process settings artifacts inference deployments.replica"
    ),
    "deployments.sagemaker": (
        "errors media_types types settings codecs artifacts inference web protocols "
        "deployments.replica deployments.tensorflow"
    ),
    "deployments.torch": (
        "errors importing types process settings artifacts payloads inference "
        "deployments.replica deployments.model_files"
    ),
}
PACKAGES = ("rayserve_app", "deployments")
INTERNALS = "deployments/internals/"
# Who may import Ray: its public names, or with the room of its insides, the private ones too.
RAY = (
    INTERNALS,
    "deployments/replica/",
    "deployments/gateway.py",
    "deployments/serve_schema.py",
)
FRAMEWORKS = ("keras", "mxnet", "sklearn", "tensorflow", "torch")
HTTP = ("starlette", "uvicorn", "httpx", "rayserve_app.web", "rayserve_app.app")
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
    assert "deployments/replica/application.py" in importers("ray")
    assert "rayserve_app/codecs/json.py" in importers("orjson", at_top=True)
    assert "rayserve_app/payloads/preprocessing.py" in importers("cv2") - importers(
        "cv2", at_top=True
    )
    assert "rayserve_app/protocols/clipper/service.py" in importers("rayserve_app.codecs.json")


def room_of(module: str) -> str | None:
    """Return the room of a module, or of a name in it; None if it is not ours."""
    package, _, rest = module.partition(".")
    if package not in PACKAGES or rest.partition(".")[0] in ("", "__version__"):
        return None
    name = rest.partition(".")[0]
    return name if package == "rayserve_app" else f"{package}.{name}"


def test_rooms_import_what_the_table_allows() -> None:
    found: dict[str, set[str]] = {room: set() for room in ROOMS}
    for file, module, _ in imports():
        room, other = room_of(file.removesuffix(".py").replace("/", ".")), room_of(module)
        if room is not None and other not in (None, room):
            found[room].add(other)
    assert found == {room: set(others.split()) for room, others in ROOMS.items()}


def test_no_arrow_leads_up() -> None:
    rooms = list(ROOMS)
    for place, (room, others) in enumerate(ROOMS.items()):
        assert set(others.split()) <= set(rooms[:place]), room


def test_every_room_is_in_the_table() -> None:
    rooms = {
        room_of(f"{package}.{path.stem}")
        for package in PACKAGES
        for path in (ROOT / package).iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert rooms - {"__init__", "deployments.__init__"} == set(ROOMS)


def test_ray_is_imported_at_the_rim_only() -> None:
    assert {file for file in importers("ray") if not file.startswith(RAY)} == set()


def test_the_insides_of_ray_and_uvicorn_are_imported_in_one_room() -> None:
    private = {
        file
        for file, module, _ in imports()
        if module.startswith("ray.") and any(part.startswith("_") for part in module.split("."))
    }
    assert {file for file in private if not file.startswith(INTERNALS)} == set()
    inside_uvicorn = {
        file
        for file, module, _ in imports()
        if module.startswith("uvicorn.") and module not in ("uvicorn.Config", "uvicorn.Server")
    }
    assert {file for file in inside_uvicorn if not file.startswith(INTERNALS)} == set()
    users = {file for file in importers("uvicorn") if not file.startswith(INTERNALS)}
    assert users <= {"rayserve_app/bench/served.py"}
    assert private
    assert inside_uvicorn


def test_what_knows_insides_is_imported_when_it_is_used() -> None:
    """Whoever imports a framework's deployment, or a gateway's, needs none of it."""
    knowing = [f"deployments.internals.{name}" for name in ("accounts", "connection", "sockets")]
    assert importers(*knowing, at_top=True) <= {"rayserve_app/bench/loop_probe.py"}
    modules = {"ray.serve._private", "ray._common", "ray._private"}
    at_top = importers(*modules, at_top=True)
    assert at_top == {"deployments/internals/accounts.py"}


def test_frameworks_are_imported_by_nothing_that_is_only_imported() -> None:
    assert importers(*FRAMEWORKS, at_top=True) == set()


@pytest.mark.parametrize("room", ["inference", "payloads", "codecs"])
def test_what_computes_knows_nothing_of_http(room: str) -> None:
    assert importers(*HTTP, within=f"rayserve_app/{room}/") == set()


def test_a_protocols_settings_need_nothing_else_of_it() -> None:
    known = ("rayserve_app.settings.section.", "rayserve_app.settings.locations.")
    for file, module, _ in imports():
        if re.fullmatch("rayserve_app/protocols/[a-z_]+/settings.py", file):
            assert room_of(module) is None or module.startswith(known), file


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

import rayserve_app.app
from rayserve_app.importing import import_from_string
from rayserve_app.settings.protocols import PROTOCOLS
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
