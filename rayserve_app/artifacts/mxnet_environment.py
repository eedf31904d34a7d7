"""MXNet 1.9.1 in an environment of its own: where its Python is, and how MXNet is imported there.

It needs numpy 1, where everything else here has numpy 2. Ray starts a replica in it with
`runtime_env: {py_executable: rayserve-mxnet-python}`, the script that `main` is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from rayserve_app.errors import ConfigurationError, LoadError, MissingDependency

PYTHON_VARIABLE: Final = "RAYSERVE_MXNET_PYTHON"

DIRECTORY: Final = ".venv-mxnet"
"""Beside the environment that the script is in."""

REMEDY: Final = f"`make {DIRECTORY}/.installed` makes it; {PYTHON_VARIABLE} names another one"


def main() -> NoReturn:
    """Become the Python of MXNet's environment, with the same arguments and variables."""
    try:
        python = find_python(os.environ, Path(sys.prefix))
    except ConfigurationError as error:
        sys.exit(f"rayserve-mxnet-python: {error}")
    os.execv(python, [str(python), *sys.argv[1:]])


def find_python(environment: Mapping[str, str], prefix: Path) -> Path:
    """Return the Python that RAYSERVE_MXNET_PYTHON names, else that of `.venv-mxnet` beside the
    environment at `prefix`.

    Raises:
        ConfigurationError: there is no such program.
    """
    named = environment.get(PYTHON_VARIABLE)
    python = Path(named) if named else prefix.parent / DIRECTORY / "bin" / "python"
    if not os.access(python, os.X_OK) or python.is_dir():
        raise ConfigurationError(
            "MXNet's environment is missing",
            expected="the path of its Python",
            got=f"`{python}`, which is not a program",
            path=PYTHON_VARIABLE if named else "",
            remedy=REMEDY,
        )
    return python


def import_mxnet(*, threads: int = 0) -> Any:
    """Return the module `mxnet`.

    Args:
        threads: how many compute one operation, for the whole process and only if MXNet is not
            imported yet; 0 for MXNet's own choice.
    Raises:
        MissingDependency: it is not installed in this environment.
        LoadError: it is, but does not import.
    """
    if threads:
        # Read when its libraries are loaded (docs: faq/env_var). Ray has set the first one to the
        # CPUs that the replica asks for, and a share of one becomes 1. Operations follow each
        # other, since a batch is one call of one model.
        os.environ["OMP_NUM_THREADS"] = str(threads)
        os.environ["MXNET_CPU_WORKER_NTHREADS"] = "1"
    _restore_numpy_bool()
    try:
        import mxnet
    except ImportError as exc:
        if exc.name == "mxnet":
            raise MissingDependency(
                "The model needs MXNet, which has an environment of its own",
                remedy="In the YAML's `ray_actor_options`: "
                f"`runtime_env: {{py_executable: rayserve-mxnet-python}}`. {REMEDY}; it has "
                '`pip install "rayserve-app[serve,mxnet]"`',
            ) from exc
        raise _broken(exc) from exc
    except OSError as exc:
        raise _broken(exc, "Its wheel needs `apt-get install libgomp1 libquadmath0`") from exc
    except AttributeError as exc:  # of another numpy
        raise _broken(exc) from exc
    return mxnet


def _restore_numpy_bool() -> None:
    """Give numpy 1.24 to 1.26 the alias that MXNet looks up while it is imported."""
    import numpy as np  # a tenth of a second that the script would not need

    if "bool" not in vars(np):
        np.bool = bool  # type: ignore[assignment,misc]


def _broken(exc: Exception, remedy: str | None = None) -> LoadError:
    return LoadError(
        "MXNet is installed, but does not import",
        got=f"{type(exc).__name__}: {exc}",
        remedy=remedy,
    )
