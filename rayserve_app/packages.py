"""Packages of one model's own, which other models' replicas do not see."""

from __future__ import annotations

import hashlib
import importlib
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.metadata import Distribution, PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator

from rayserve_app.cache import obtain
from rayserve_app.errors import LoadError, MissingDependency

INSTALL_TIMEOUT_S: Final = 110
"""Serve's operator is told within two minutes that a deployment fails."""

_UV_ERRORS: Final = ("error:", "\N{MULTIPLICATION SIGN}")
"""How uv's errors begin, by its version."""


def _check_requirement(value: str) -> str:
    if not value.strip():
        raise ValueError("A requirement is empty")
    if value.lstrip().startswith("-"):
        raise ValueError("A requirement begins with '-', as an option does")
    return value


Requirements = tuple[Annotated[str, AfterValidator(_check_requirement)], ...]
"""Requirements as pip takes them (PEP 508, URLs, paths), without its options."""


def install(requirements: Sequence[str], *, requirements_file: Path | None = None) -> Path:
    """Install packages and all that they depend on into a folder of the cache.

    uv does it, with the indexes that are configured for it. A set of requirements is installed
    once per machine and Python: one without a version stays at what was newest then.

    Args:
        requirements_file: a `requirements.txt` whose lines hold as well; options may stand in it.

    Returns: the folder, for `activate`.
    Raises:
        LoadError: a requirement does not exist, does not fit the others or does not build, or
            installing took too long.
        MissingDependency: uv is not installed.
    """
    if requirements_file is not None and not requirements_file.is_file():
        raise LoadError(f"No such file: {requirements_file.absolute()}")
    give_up_at = time.monotonic() + INSTALL_TIMEOUT_S
    command = [_find_uv(), "pip", "install", "--python", sys.executable]
    command += ["--no-progress", "--color", "never"]
    if requirements_file is not None:
        command += ["--requirements", str(requirements_file)]
    names = ", ".join([*requirements, *([requirements_file.name] if requirements_file else [])])
    make = partial(_install, command, requirements, names, give_up_at)
    key = f"packages/{_key(requirements, requirements_file)}"
    try:
        return obtain(key, make, wait_s=INSTALL_TIMEOUT_S)
    except TimeoutError as exc:
        raise _too_slow(names, "another replica is still installing them") from exc


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


def _find_uv() -> str:
    try:
        from uv import find_uv_bin

        return find_uv_bin()
    except (ImportError, FileNotFoundError) as exc:
        raise MissingDependency(
            "Packages of a model's own need uv", remedy="pip install uv"
        ) from exc


def _key(requirements: Sequence[str], requirements_file: Path | None) -> str:
    parts = [sys.version, sysconfig.get_platform(), *sorted(requirements)]
    if requirements_file is not None:
        parts.append(requirements_file.read_text())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _install(
    command: Sequence[str], requirements: Sequence[str], names: str, give_up_at: float, target: Path
) -> None:
    # In a session of its own, so that what uv has started to build a package ends with it.
    process = subprocess.Popen(
        [*command, "--target", str(target), "--", *requirements],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        told = process.communicate(timeout=max(0.0, give_up_at - time.monotonic()))[1]
    except subprocess.TimeoutExpired as exc:
        raise _too_slow(names, "uv is still at work") from exc
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode:
        raise LoadError(f"The model's packages cannot be installed: {names}", got=_summary(told))


def _too_slow(names: str, got: str) -> LoadError:
    return LoadError(
        f"The model's packages take too long to install: {names}",
        expected=f"at most {INSTALL_TIMEOUT_S} s",
        got=got,
    )


def _summary(told: str) -> str:
    """Return uv's error as one line, without what it did before and the tree that it may draw."""
    lines = told.strip().splitlines()
    starts = [number for number, line in enumerate(lines) if line.strip().startswith(_UV_ERRORS)]
    shown = lines[starts[0] :] if starts else lines[-5:]
    stripped = (line.strip(f" {_UV_ERRORS[1]}│├╰─▶") for line in shown)
    return " ".join(stripped).removeprefix(_UV_ERRORS[0]).strip()


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
                remedy="Give the model an environment of its own: "
                "`runtime_env: {py_executable: ...}` in `ray_actor_options`",
            )


def _module_names(distribution: Distribution) -> Iterator[str]:
    for path in distribution.files or ():
        if path.suffix in (".py", ".so") and not path.parts[0].endswith(".data"):
            parts = [*path.parts[:-1], path.name.partition(".")[0]]
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
