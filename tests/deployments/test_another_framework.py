"""Another framework is one module, found by its import path, and one case of the contract."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from ray.serve import Application

from rayserve_app.importing import import_from_string
from rayserve_app.inference.backend import Backend
from tests.deployments import test_contract as contract
from tests.deployments.test_contract import MATRIX, Case, backend, folder

__all__ = ["backend", "folder"]

MODULE = '''
"""Matrices of numpy, in `.npy` files: `import_path: another_numpy:build`."""

from functools import partial

import numpy as np

from deployments.replica.application import build_application
from rayserve_app.artifacts.sources import fetch
from rayserve_app.errors import LoadError, PredictError
from rayserve_app.inference.backend import Backend
from rayserve_app.settings.model import FileSettings, parse_settings
from rayserve_app.types import Metadata, TensorSpec


class NumpySettings(FileSettings):
    transpose: bool = False


def build(args):
    settings = parse_settings(NumpySettings, args)
    return build_application(settings, partial(NumpyBackend, settings))


class NumpyBackend(Backend):
    def __init__(self, settings):
        self._settings = settings
        self._matrix = None
        self._metadata = Metadata("numpy")

    def load(self):
        try:
            matrix = np.load(fetch(self._settings.path))
        except (OSError, ValueError) as exc:
            raise LoadError("Not a matrix", got=str(exc), path="args.model.path") from exc
        self._matrix = matrix.T if self._settings.transpose else matrix
        size, count = self._matrix.shape
        x, y = TensorSpec("x", "float32", (-1, size)), TensorSpec("y", "float32", (-1, count))
        self._metadata = Metadata("numpy", inputs=(x,), outputs=(y,))

    def predict(self, items):
        if self._matrix is None:
            raise PredictError("The model is not loaded")
        return {"y": np.stack(items) @ self._matrix}

    def metadata(self):
        return self._metadata

    def close(self):
        self._matrix = None
'''


def create_numpy(folder: Path, import_path: str) -> Backend:
    path = folder / "matrix.npy"
    np.save(path, MATRIX.T)
    settings = {"path": str(path), "transpose": True, "input": {"type": "tensor"}}
    application: Application = import_from_string(import_path)({"model": settings})
    _, create = application._bound_deployment.init_args
    backend: Backend = create()
    return backend


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    package = tmp_path_factory.mktemp("package")
    (package / "another_numpy.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(package)
        yield Case("numpy", partial(create_numpy, import_path="another_numpy:build"), "numpy")


# The whole contract, on this module's case.
TESTS = {name: test for name, test in vars(contract).items() if name.startswith("test_")}
globals().update(TESTS)
