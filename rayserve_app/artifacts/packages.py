"""Packages of one model's own, which other models' replicas do not see."""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from importlib.metadata import Distribution, PackageNotFoundError, distributions, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from packaging.utils import canonicalize_name

from rayserve_app.artifacts.cache import obtain
from rayserve_app.artifacts.requirements import Replica, Strictness, Unmet, Wanted
from rayserve_app.errors import LoadError, MissingDependency

logger = logging.getLogger(__name__)

INSTALL_TIMEOUT_S: Final = 110
"""Serve's operator is told within two minutes that a deployment fails."""

_UV_ERRORS: Final = ("error:", "\N{MULTIPLICATION SIGN}")
"""How uv's errors begin, by its version."""

_CONFLICT: Final = "No solution found"

_PLANNED: Final = re.compile(r"^ [+~] ([\w.-]+)(==\S+$)?", re.MULTILINE)
"""How `uv pip install --dry-run` lists what it would install: by its version, from an index, or
with the URL that was asked for."""

_DROPPED: Final = "python_version < '0'"
"""A marker that never holds: an override with it removes a requirement."""

_NOTES: Final = "left-out.txt"
"""The file of a folder that tells which requirements were not met, a sentence a line."""

_PYTHON: Final = f"Python {sys.version_info.major}.{sys.version_info.minor}"

OWN_ENVIRONMENT: Final = (
    "A process holds one version of each package. Give the model an environment of its own: on each"
    f" node `{_PYTHON.lower().replace(' ', '')} -m venv /path` and `/path/bin/pip install` of this"
    " project with its extra `serve`, the framework's, and these requirements; then start its"
    " replicas there, with `runtime_env: {py_executable: /path/bin/python}` in `ray_actor_options`"
)


def install(
    requirements: Sequence[str],
    *,
    requirements_file: Path | None = None,
    strictness: Strictness = "lenient",
) -> Path:
    """Install what the replica lacks of some requirements, and of all that they depend on, into a
    folder of the cache.

    What is installed already and satisfies a requirement is left alone, as pip leaves it, and what
    is imported already in another version than a requirement's is a conflict. uv does it, with the
    indexes that are configured for it. A set of requirements is installed once per machine, Python
    and set of installed packages: one without a version stays at what was newest then.

    Args:
        requirements_file: a `requirements.txt` whose lines hold as well; options may stand in it.

    Returns: the folder, for `activate`; it is empty where nothing was lacking.
    Raises:
        LoadError: a requirement does not exist, does not fit the others or the replica, or does
            not build, or installing took too long.
        MissingDependency: uv is not installed.
    """
    if requirements_file is not None and not requirements_file.is_file():
        raise LoadError(f"No such file: {requirements_file.absolute()}")
    replica = Replica()
    wanted = Wanted(requirements, requirements_file, replica)
    if wanted.is_met:
        return obtain("packages/none", lambda path: path.mkdir(parents=True))
    uv = _Uv(wanted, time.monotonic() + INSTALL_TIMEOUT_S)
    make = partial(_make, uv, wanted, replica, strictness)
    try:
        directory = obtain(
            f"packages/{_key(wanted, replica, strictness)}", make, wait_s=INSTALL_TIMEOUT_S
        )
    except TimeoutError as exc:
        raise uv.too_slow("another replica is still installing them") from exc
    notes = directory / _NOTES
    for note in notes.read_text().splitlines() if notes.exists() else ():
        logger.warning("%s", note)
    return directory


def activate(directory: Path) -> None:
    """Let imports of this process find what lies in a folder that `install` returned, before
    anything else of that name. Its `.pth` files have no effect.

    Raises:
        LoadError: one of the packages is imported already in another version, as numpy is in every
            replica; a process cannot hold both.
    """
    for distribution in distributions(path=[str(directory)]):
        _check_not_imported(distribution, directory)
    if str(directory) in sys.path:
        sys.path.remove(str(directory))
    sys.path.insert(0, str(directory))
    importlib.invalidate_caches()


class _Conflict(Exception):
    """What is wanted does not go together; with uv's sentences about it."""


class _Uv:
    """Runs uv for some requirements, within a time limit."""

    def __init__(self, wanted: Wanted, give_up_at: float) -> None:
        self._wanted = wanted
        self._give_up_at = give_up_at
        self._program = _find_uv()

    def install(self, *arguments: str, is_all: bool = True) -> str:
        """Run `uv pip install` and return what it told.

        Args:
            is_all: whether to install all that is wanted, beside the arguments.
        Raises:
            _Conflict: there is no solution.
            LoadError: another failure.
        """
        command = [self._program, "pip", "install", "--python", sys.executable]
        command += ["--no-progress", "--color", "never", *arguments]
        if is_all:
            file = self._wanted.file
            command += [] if file is None else ["--requirement", str(file)]
            command += ["--", *self._wanted.requirements]
        status, told = self._run(command)
        if status and _CONFLICT in told:
            raise _Conflict(told)
        if status:
            raise self.failure(told)
        return told

    def failure(self, told: str) -> LoadError:
        return LoadError(
            f"The model's packages cannot be installed: {self._wanted.shown}", got=_summary(told)
        )

    def too_slow(self, got: str) -> LoadError:
        return LoadError(
            f"The model's packages take too long to install: {self._wanted.shown}",
            expected=f"at most {INSTALL_TIMEOUT_S} s",
            got=got,
        )

    def _run(self, command: Sequence[str]) -> tuple[int, str]:
        # In a session of its own, so that what uv has started to build a package ends with it.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            told = process.communicate(timeout=max(0.0, self._give_up_at - time.monotonic()))[1]
        except subprocess.TimeoutExpired as exc:
            raise self.too_slow("uv is still at work") from exc
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return process.returncode, told


def _make(uv: _Uv, wanted: Wanted, replica: Replica, strictness: Strictness, target: Path) -> None:
    """Install into a folder what is lacking, and note what cannot be had."""
    left_out = [each for each in wanted.unmet if not _is_had(uv, each)]
    if left_out and strictness == "strict":
        raise LoadError(
            f"No index has a wheel of `{left_out[0].requirement}` for {_PYTHON}",
            got=str(left_out[0].there),
            remedy="Without `requirements: strict` the model loads with what is installed.",
        )
    gone = {each.name for each in left_out}
    changed = {each.name for each in wanted.unmet} - gone
    dropped = (replica.unseen - changed) | gone
    with TemporaryDirectory() as scratch:
        planned = _plan(uv, replica, dropped, changed, Path(scratch))
        target.mkdir(parents=True)
        if planned:
            names = {canonicalize_name(name) for name, _ in planned}
            pins = [f"{name}{pin}" for name, pin in planned if pin]
            dropping = _write_dropped(Path(scratch), (replica.names | dropped) - names)
            pinned = _write(Path(scratch) / "pinned.txt", pins)
            uv.install("--target", str(target), "--no-deps", *dropping, "--requirement", pinned)
    notes = [
        f"No index has a wheel of `{each.requirement}` for {_PYTHON}: going on with {each.there}"
        for each in left_out
    ]
    if notes:
        (target / _NOTES).write_text("\n".join(notes))


def _is_had(uv: _Uv, unmet: Unmet) -> bool:
    """Return whether an index has a wheel of a requirement for this Python. What comes as source
    alone, where another version is installed as a wheel, mostly does not build for it."""
    name, requirement = unmet.requirement.name, str(unmet.requirement)
    try:
        uv.install("--dry-run", "--no-deps", "--only-binary", name, requirement, is_all=False)
    except _Conflict:
        return False
    return True


def _plan(
    uv: _Uv, replica: Replica, dropped: frozenset[str], changed: set[str], scratch: Path
) -> list[tuple[str, str]]:
    """Return name and pin, if it has one, of what is to be installed beside, or in the stead of,
    what the replica has: of that as little as possible, and nothing that is imported already.

    Raises:
        LoadError: there is no such set.
    """
    dropping = _write_dropped(scratch, dropped)
    every = replica.names | replica.unseen
    kept = frozenset(name for name in every if replica.is_imported(name))
    for held in (every - changed | kept, kept):
        pins = _write(scratch / "held.txt", replica.pins(held - dropped))
        constraints = ["--constraint", pins, "--break-system-packages"]
        try:
            return _PLANNED.findall(uv.install("--dry-run", *constraints, *dropping))
        except _Conflict as exc:
            conflict = exc
    told = str(conflict)
    try:
        # Alone, with nothing of the replica's?
        uv.install("--dry-run", "--target", str(scratch / "alone"), *dropping)
    except _Conflict:
        raise uv.failure(told) from conflict
    raise LoadError(
        "The model's packages do not go together with what its replica has imported already",
        got=_summary(told),
        remedy=OWN_ENVIRONMENT,
    ) from conflict


def _write(path: Path, lines: Iterable[str]) -> str:
    path.write_text("\n".join(lines))
    return str(path)


def _write_dropped(scratch: Path, names: Iterable[str]) -> list[str]:
    """Return options by which uv takes some packages for nobody's requirement."""
    lines = (f"{name} ; {_DROPPED}" for name in sorted(names))
    return ["--override", _write(scratch / "dropped.txt", lines)]


def _find_uv() -> str:
    try:
        from uv import find_uv_bin

        return find_uv_bin()
    except (ImportError, FileNotFoundError) as exc:
        raise MissingDependency(
            "Packages of a model's own need uv", remedy="pip install uv"
        ) from exc


def _key(wanted: Wanted, replica: Replica, strictness: Strictness) -> str:
    parts = [sys.version, sysconfig.get_platform(), strictness, *sorted(wanted.requirements)]
    parts += [wanted.text, *replica.pins(replica.names)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _summary(told: str) -> str:
    """Return uv's error as one line, without what it did before and the tree that it may draw."""
    lines = told.strip().splitlines()
    starts = [number for number, line in enumerate(lines) if line.strip().startswith(_UV_ERRORS)]
    shown = lines[starts[0] :] if starts else lines[-5:]
    stripped = (line.strip(f" {_UV_ERRORS[1]}│├╰─▶") for line in shown)
    return " ".join(stripped).removeprefix(_UV_ERRORS[0]).strip().removesuffix(".")


def _check_not_imported(distribution: Distribution, directory: Path) -> None:
    name = distribution.metadata["Name"]
    try:
        present = version(name)
    except PackageNotFoundError:
        present = "unknown"
    if present == distribution.version:
        return
    for module_name in _module_names(distribution):
        file = getattr(sys.modules.get(module_name), "__file__", None)
        if file is not None and not Path(file).is_relative_to(directory):
            raise LoadError(
                f"The model's package {name} cannot be used: another version is imported already",
                expected=f"{name}=={distribution.version}",
                got=f"{name}=={present} at {file}",
                remedy=OWN_ENVIRONMENT,
            )


def _module_names(distribution: Distribution) -> Iterator[str]:
    for path in distribution.files or ():
        if path.suffix in (".py", ".so") and not path.parts[0].endswith(".data"):
            parts = [*path.parts[:-1], path.name.partition(".")[0]]
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
