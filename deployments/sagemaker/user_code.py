"""The code of a model package: its environment, its directories on the import path, its module."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Final

from rayserve_app.errors import LoadError

# What SageMaker's containers have installed, so that packages do not name it.
CONTAINERS_OWN: Final = {
    "sagemaker_inference": (
        '`pip install "rayserve-app[sagemaker]"`, or `sagemaker-inference` in `{place}`.'
    ),
    "tensorflow_serving": (
        "`tensorflow-serving-api` in `{place}`; for all models `pip install --no-deps"
        " tensorflow-serving-api`, since its dependencies would bring another TensorFlow."
    ),
}


class UserCode:
    """Directories whose modules can be imported, and variables that they read, until `close`.

    Both belong to the whole process, as they do in a SageMaker container: a replica has one model.
    """

    def __init__(self, directories: Sequence[Path], environment: Mapping[str, str]) -> None:
        """Keep the settings.

        Args:
            directories: the first one is searched first.
            environment: variables of `os.environ`.
        """
        self._directories = [str(directory.resolve()) for directory in directories]
        self._environment = environment
        self._before: dict[str, str | None] = {}

    def open(self) -> None:
        """Set the variables and make the directories' modules importable."""
        for name, value in self._environment.items():
            self._before[name] = os.environ.get(name)
            os.environ[name] = value
        sys.path[:0] = self._directories
        importlib.invalidate_caches()

    def load(self, program: str) -> ModuleType:
        """Import a file of the first directory by its name, `inference.py`.

        Raises:
            LoadError: its code raises while it is imported; the sentence says what.
        """
        name = program.removesuffix(".py")
        if name in sys.modules and not self._owns(sys.modules[name]):
            # `inference` or `predict` may well be another module's name too.
            del sys.modules[name]
        try:
            return importlib.import_module(name)
        except Exception as exc:
            raise LoadError(
                f"`{self._directories[0]}/{program}` fails to import",
                got=f"{type(exc).__name__}: {exc}",
                remedy=import_remedy(exc, Path(self._directories[0])),
            ) from exc

    def close(self) -> None:
        """Forget the modules, and set everything to what it was."""
        for name in [name for name, module in sys.modules.items() if self._owns(module)]:
            del sys.modules[name]
        for directory in self._directories:
            if directory in sys.path:
                sys.path.remove(directory)
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._before.clear()

    def _owns(self, module: ModuleType) -> bool:
        file = getattr(module, "__file__", None) or ""
        return any(file.startswith(directory + os.sep) for directory in self._directories)


def import_remedy(exc: Exception, code: Path) -> str | None:
    """Return what to do about a module that a package's code does not find; None for another error.

    Args:
        code: the package's directory of code.
    """
    if not isinstance(exc, ModuleNotFoundError) or exc.name is None:
        return None
    # What a package brings along in lib/ stands for its requirements (sagemaker.py).
    place = "code/lib" if (code / "lib").is_dir() else "code/requirements.txt"
    remedy = CONTAINERS_OWN.get(exc.name.partition(".")[0], "Its package belongs in `{place}`.")
    return remedy.format(place=place)
