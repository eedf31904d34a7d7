"""What every backend must do, whatever its framework: one suite for all.

The model is always the same, a batch of rows times a matrix, which numpy works out by hand as well.
MXNet's case runs in MXNet's environment: test_mxnet.py.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from rayserve_app.app import create_app
from rayserve_app.errors import LoadError, PredictError, ServingError
from rayserve_app.inference.backend import Backend
from rayserve_app.inference.batcher import run_batch
from rayserve_app.inference.model import Model
from rayserve_app.settings.model import ModelSettings, parse_settings
from rayserve_app.types import Invocation, Row
from tests.protocols import call

MATRIX = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)


def times_matrix(rows: Any) -> list[Any]:
    """The closure of the suite."""
    return [row @ MATRIX for row in rows]


def torch_linear() -> Any:
    import torch

    return torch.nn.Linear(3, 2, bias=False)


def mxnet_dense() -> Any:
    from rayserve_app.artifacts.mxnet_environment import import_mxnet

    return import_mxnet().gluon.nn.Dense(2, use_bias=False, in_units=3)


class Case(NamedTuple):
    """One backend: how its model is saved, and how an item and a result look."""

    needs: str
    create: Callable[[Path], Backend]
    platform: str
    to_item: Callable[[Any], Any] = np.asarray
    from_value: Callable[[Any], Any] = lambda value: next(iter(value.values()))
    missing: str = "path"


def create_closure(_: Path) -> Backend:
    from deployments.closure.backend import ClosureBackend, ClosureSettings

    model = {"function": f"{__name__}:times_matrix", "input": {"type": "tensor"}}
    return ClosureBackend(parse_settings(ClosureSettings, {"model": model}))


def create_saved_model(folder: Path) -> Backend:
    from deployments.tensorflow.backend import TensorFlowBackend

    path = folder / "saved_model"
    if not path.exists():
        import tensorflow as tf

        class Product(tf.Module):
            @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, "x")])
            def __call__(self, x: Any) -> dict[str, Any]:
                return {"y": tf.matmul(x, tf.constant(MATRIX))}

        product = Product()
        tf.saved_model.save(product, str(path), signatures=product.__call__)
    return TensorFlowBackend(path=str(path))


def create_keras(folder: Path) -> Backend:
    from deployments.tensorflow.backend import TensorFlowBackend

    path = folder / "model.keras"
    if not path.exists():
        import keras

        layers = [keras.Input((3,)), keras.layers.Dense(2, use_bias=False)]
        model = keras.Sequential(layers)
        model.set_weights([MATRIX])
        model.save(path)
    return TensorFlowBackend(path=str(path))


def create_torch(folder: Path) -> Backend:
    from deployments.torch.backend import TorchBackend, TorchSettings

    path = folder / "linear.safetensors"
    if not path.exists():
        import torch
        from safetensors.torch import save_file

        save_file({"weight": torch.from_numpy(MATRIX.T.copy())}, str(path))
    model = {
        "path": str(path),
        "module": f"{__name__}:torch_linear",
        "input": {"type": "tensor", "shape": [3], "dtype": "float32"},
    }
    return TorchBackend(parse_settings(TorchSettings, {"model": model}))


def create_mxnet(folder: Path) -> Backend:
    from deployments.mxnet.backend import MXNetBackend, MXNetSettings

    path = folder / "dense.params"
    if not path.exists():
        net = mxnet_dense()
        net.initialize()
        net.weight.set_data(MATRIX.T)
        net.save_parameters(str(path))
    model = {
        "path": str(path),
        "module": f"{__name__}:mxnet_dense",
        "input": {"type": "tensor", "shape": [3]},
    }
    return MXNetBackend(parse_settings(MXNetSettings, {"model": model}))


PACKAGE = """
import json
import os

import numpy as np


def model_fn(model_dir):
    return np.load(os.path.join(model_dir, "matrix.npy"))


def predict_fn(data, model):
    return data @ model
"""


def create_sagemaker(folder: Path) -> Backend:
    from deployments.sagemaker.backend import SageMakerBackend, SageMakerSettings

    path = folder / "package"
    if not path.exists():
        (path / "code").mkdir(parents=True)
        (path / "code" / "inference.py").write_text(PACKAGE)
        np.save(path / "matrix.npy", MATRIX)
    return SageMakerBackend(parse_settings(SageMakerSettings, {"model": {"path": str(path)}}))


def to_invocation(row: Any) -> Invocation:
    body = json.dumps(np.asarray(row).tolist()).encode()
    return Invocation(body, "application/json", "application/json")


CASES = {
    "closure": Case(
        "numpy", create_closure, "python-closure", from_value=np.asarray, missing="function"
    ),
    "saved-model": Case("tensorflow", create_saved_model, "tensorflow"),
    "keras": Case("tensorflow", create_keras, "tensorflow"),
    "torch": Case("torch", create_torch, "pytorch"),
    "mxnet": Case("mxnet", create_mxnet, "mxnet"),
    "sagemaker": Case(
        "scipy",
        create_sagemaker,
        "sagemaker",
        to_item=to_invocation,
        from_value=lambda reply: np.asarray(json.loads(reply.body), np.float32),
    ),
}

HERE = {name: case for name, case in CASES.items() if find_spec(case.needs)}


@pytest.fixture(scope="module", params=HERE)
def case(request: pytest.FixtureRequest) -> Case:
    return HERE[request.param]


@pytest.fixture(scope="module")
def folder(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("contract")


@pytest.fixture
def backend(case: Case, folder: Path) -> Any:
    backend = case.create(folder)
    backend.load()
    yield backend
    backend.close()


def rows(count: int) -> Any:
    return np.random.default_rng(count).normal(size=(count, 3)).astype(np.float32)


def values(case: Case, results: list[Any]) -> Any:
    faults = [result for result in results if isinstance(result, ServingError)]
    assert faults == []
    return np.stack([case.from_value(result.value) for result in results])


def test_a_backend_travels_before_it_is_loaded(case: Case, folder: Path) -> None:
    """Serve pickles what creates it."""
    import cloudpickle

    backend = cloudpickle.loads(cloudpickle.dumps(case.create(folder)))
    backend.load()
    item = case.to_item(rows(1)[0])
    assert isinstance(run_batch(backend.predict, [item])[0], Row)
    backend.close()


def test_metadata_names_the_platform(case: Case, backend: Backend) -> None:
    assert backend.metadata().platform.startswith(case.platform)


@pytest.mark.parametrize("count", [1, 2, 32])
def test_a_batch_of_any_size_is_what_numpy_makes_of_it(
    case: Case, backend: Backend, count: int
) -> None:
    x = rows(count)
    results = run_batch(backend.predict, [case.to_item(row) for row in x])
    np.testing.assert_allclose(values(case, results), x @ MATRIX, rtol=1e-4, atol=1e-5)


def test_results_stay_in_the_order_of_their_items(case: Case, backend: Backend) -> None:
    x = rows(8)
    one_by_one = [run_batch(backend.predict, [case.to_item(row)])[0] for row in x]
    together = run_batch(backend.predict, [case.to_item(row) for row in x])
    np.testing.assert_allclose(
        values(case, one_by_one), values(case, together), rtol=1e-4, atol=1e-5
    )


def test_an_error_in_one_item_is_its_own(case: Case, backend: Backend) -> None:
    x = rows(4)
    items: list[Any] = [case.to_item(row) for row in x]
    items[2] = case.to_item(np.ones(5, np.float32))
    results = run_batch(backend.predict, items)
    assert [isinstance(result, ServingError) for result in results] == [False, False, True, False]
    good = values(case, [results[0], results[1], results[3]])
    np.testing.assert_allclose(good, x[[0, 1, 3]] @ MATRIX, rtol=1e-4, atol=1e-5)


def test_items_of_unlike_shape_do_not_share_a_bucket(case: Case, backend: Backend) -> None:
    if case.to_item is to_invocation:
        pytest.skip("requests have no shape; they are answered one by one")
    first, second = np.ones(3, np.float32), np.ones(4, np.float32)
    assert backend.bucket(first) != backend.bucket(second)
    assert backend.bucket(first) == backend.bucket(first.copy())


def test_many_callers_are_answered_through_the_batcher(case: Case, folder: Path) -> None:
    backend = case.create(folder)
    kind = "request" if case.to_item is to_invocation else "tensor"
    batch = 1 if kind == "request" else 8
    settings = ModelSettings.model_validate(
        {"input": {"type": kind}, "batching": {"max_batch_size": batch}}
    )
    model = Model(settings, backend, name="contract")
    model.load()
    model.warm_up()
    x = rows(20)

    async def ask() -> list[Any]:
        answers = await asyncio.gather(*[model.predict([case.to_item(row)]) for row in x])
        return [answer[0] for answer in answers]

    results = asyncio.run(ask())
    np.testing.assert_allclose(values(case, results), x @ MATRIX, rtol=1e-4, atol=1e-5)
    model.close()


def test_metadata_lists_the_outputs_that_are_answered(case: Case, folder: Path) -> None:
    """Open Inference Protocol v2: same names, types, and shapes but for the items."""
    if case.to_item is to_invocation:
        pytest.skip("a body without a type, which this protocol brings, is none for the package")
    settings = ModelSettings.model_validate({"input": {"type": "tensor"}})
    model = Model(settings, case.create(folder), name="m")
    model.load()
    model.warm_up()
    app = create_app(model)

    async def ask() -> tuple[Any, Any]:
        described = (await call(app, "GET", "/v2/models/m")).json()
        (declared,) = described["inputs"]
        data = {"shape": [1, 3], "data": rows(1).ravel().tolist()}
        tensor = {"name": declared["name"], "datatype": declared["datatype"], **data}
        requested = [{"name": each["name"]} for each in described["outputs"]]
        document = {"inputs": [tensor], "outputs": requested}
        answered = await call(app, "POST", "/v2/models/m/infer", json=document)
        assert answered.status_code == 200, answered.text
        after = (await call(app, "GET", "/v2/models/m")).json()
        return after["outputs"], answered.json()["outputs"]

    told, answered = asyncio.run(ask())
    assert len(told) == len(answered) == 1
    for each, found in zip(told, answered, strict=True):
        assert (each["name"], each["datatype"]) == (found["name"], found["datatype"])
        assert len(each["shape"]) == len(found["shape"])
        for own, size in zip(each["shape"], found["shape"], strict=True):
            assert own in (-1, size)
    model.close()


def test_a_closed_backend_refuses_and_loads_again(case: Case, folder: Path) -> None:
    backend = case.create(folder)
    item = case.to_item(rows(1)[0])
    backend.load()
    backend.close()
    refused = run_batch(backend.predict, [item])[0]
    assert isinstance(refused, PredictError)
    backend.load()
    np.testing.assert_allclose(
        values(case, run_batch(backend.predict, [item])), rows(1) @ MATRIX, rtol=1e-4, atol=1e-5
    )
    backend.close()


def test_what_is_not_there_is_a_load_error(case: Case, tmp_path: Path) -> None:
    if case.missing == "function":
        pytest.skip("a closure has no file")
    backend = case.create(tmp_path)
    for path in sorted(tmp_path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(LoadError):
        backend.load()
