"""`MXNetBackend` on small networks; what they answer is worked out in numpy, or by MXNet's
operators called by hand."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.mxnet.backend import MXNetBackend, MXNetSettings
from rayserve_app.artifacts.mxnet_environment import import_mxnet
from rayserve_app.errors import PredictError, ShapeMismatch
from rayserve_app.inference.model import Model
from rayserve_app.process.workers import Workers
from rayserve_app.settings.model import parse_settings
from rayserve_app.types import TensorSpec
from tests.deployments.mxnet import networks
from tests.deployments.mxnet.networks import load, save

mx = import_mxnet()

PERCEPTRON = "tests.deployments.mxnet.networks:perceptron"
MIXER = "tests.deployments.mxnet.networks:mixer"


def perceptron_by_numpy(net: Any, x: Any) -> Any:
    first, second = ((layer.weight.data().asnumpy(), layer.bias.data().asnumpy()) for layer in net)
    return np.maximum(x @ first[0].T + first[1], 0) @ second[0].T + second[1]


@pytest.fixture(scope="module")
def perceptron() -> Any:
    return networks.perceptron()


@pytest.fixture(scope="module")
def perceptron_path(perceptron: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(perceptron, tmp_path_factory.mktemp("perceptron") / "net.params")


@pytest.fixture(scope="module")
def backend(perceptron_path: str) -> MXNetBackend:
    return load(perceptron_path, module=PERCEPTRON, input={"type": "tensor", "shape": [3]})


def some_items(count: int) -> list[Any]:
    return list(np.random.default_rng(count).normal(size=(count, 3)).astype(np.float32))


def test_answers_a_batch(backend: MXNetBackend, perceptron: Any) -> None:
    items = some_items(3)
    outputs = backend.predict(items)
    assert list(outputs) == ["output"]
    assert (outputs["output"].dtype, outputs["output"].shape) == (np.float32, (3, 2))
    expected = perceptron_by_numpy(perceptron, np.stack(items))
    np.testing.assert_allclose(outputs["output"], expected, rtol=1e-5)


def test_batches_of_any_size_in_any_order_equal_singles(backend: MXNetBackend) -> None:
    items = some_items(8)
    singles = np.concatenate([backend.predict([item])["output"] for item in items])
    for count in (8, 1, 5, 2, 8, 3):
        actual = backend.predict(items[:count])["output"]
        np.testing.assert_allclose(actual, singles[:count], rtol=1e-5)


def test_an_answer_stays_when_the_next_batch_is_run(backend: MXNetBackend) -> None:
    first = backend.predict(some_items(2))["output"]
    before = first.copy()
    backend.predict(list(-np.stack(some_items(2))))
    np.testing.assert_array_equal(first, before)


def test_the_callers_arrays_stay_as_they_are(backend: MXNetBackend) -> None:
    (item,) = some_items(1)
    before = item.copy()
    backend.predict([item])
    np.testing.assert_array_equal(item, before)
    assert item.flags.writeable


@pytest.mark.parametrize("dtype", ["float64", "int64", "uint8", ">f4"])
def test_numbers_are_cast(backend: MXNetBackend, perceptron: Any, dtype: str) -> None:
    item = np.array([1, 2, 3], dtype)
    expected = perceptron_by_numpy(perceptron, np.array([[1, 2, 3]]))
    np.testing.assert_allclose(backend.predict([item])["output"], expected, rtol=1e-5)


def test_arrays_that_are_not_contiguous(backend: MXNetBackend, perceptron: Any) -> None:
    items = list(np.asfortranarray(np.stack(some_items(4))))
    expected = perceptron_by_numpy(perceptron, np.stack(items))
    np.testing.assert_allclose(backend.predict(items)["output"], expected, rtol=1e-5)
    np.testing.assert_allclose(backend.predict(items[:1])["output"], expected[:1], rtol=1e-5)


def test_metadata_says_what_the_yaml_and_the_graph_say(backend: MXNetBackend) -> None:
    metadata = backend.metadata()
    assert metadata.platform == "mxnet"
    assert metadata.inputs == (TensorSpec("data", "float32", (-1, 3)),)
    assert metadata.outputs == (TensorSpec("output", "float32", (-1, 2)),)


def test_metadata_of_an_unknown_shape(perceptron_path: str) -> None:
    metadata = load(perceptron_path, module=PERCEPTRON).metadata()
    assert metadata.inputs == (TensorSpec("data", "float32", ()),)
    assert metadata.outputs == (TensorSpec("output", "float32", ()),)


def test_the_networks_arguments_come_from_the_yaml(tmp_path: Path) -> None:
    path = save(networks.perceptron(hidden=7), tmp_path / "net.params")
    backend = load(path, module=PERCEPTRON, arguments={"hidden": 7})
    assert backend.predict(some_items(2))["output"].shape == (2, 2)


def test_an_inner_block_answers(perceptron_path: str, perceptron: Any) -> None:
    backend = load(perceptron_path, module=PERCEPTRON, layer="0")
    items = some_items(3)
    outputs = backend.predict(items)
    expected = perceptron[0](mx.nd.array(np.stack(items))).asnumpy()
    assert list(outputs) == ["0"]
    np.testing.assert_allclose(outputs["0"], expected, rtol=1e-5)


def test_an_inner_block_is_called_with_what_reaches_it(
    perceptron_path: str, perceptron: Any
) -> None:
    backend = load(perceptron_path, module=PERCEPTRON, layer="1")
    items = some_items(3)
    expected = perceptron_by_numpy(perceptron, np.stack(items))
    np.testing.assert_allclose(backend.predict(items)["1"], expected, rtol=1e-5)


@pytest.fixture(scope="module")
def mixer(tmp_path_factory: pytest.TempPathFactory) -> MXNetBackend:
    net = networks.mixer()
    net.initialize(mx.init.Constant(2))
    path = tmp_path_factory.mktemp("mixer") / "net.params"
    net.save_parameters(str(path))
    return load(path, module=MIXER, input={"type": "tensors"})


def test_several_inputs_and_outputs(mixer: MXNetBackend) -> None:
    items = [
        {"image": np.array([[1.0, 2]]), "mask": np.array([[10.0, 20]])},
        {"mask": np.array([[0, 1]]), "image": np.array([[5, 6]])},
    ]
    outputs = mixer.predict(items)
    assert list(outputs) == ["output_0", "output_1"]
    np.testing.assert_array_equal(outputs["output_0"], [[[12, 24]], [[10, 13]]])
    np.testing.assert_array_equal(outputs["output_1"], [[[-9, -18]], [[5, 5]]])
    assert [spec.name for spec in mixer.metadata().inputs] == ["image", "mask"]


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        (np.zeros(2), "takes several inputs: expected an array for each of image, mask"),
        (
            {"image": np.zeros(2)},
            "An input is missing: expected image, mask, got image - at `mask`",
        ),
        (
            {"image": np.zeros(2), "mask": np.zeros(2), "depth": np.zeros(2)},
            "There is no such input: .* - at `depth`",
        ),
        (
            {"image": np.zeros(2), "mask": np.zeros(3)},
            r"does not fit.*got image \(1, 2\), mask \(1, 3\)",
        ),
    ],
)
def test_refuses_other_inputs(mixer: MXNetBackend, item: Any, sentence: str) -> None:
    with pytest.raises(ShapeMismatch, match=sentence):
        mixer.predict([item])


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        (np.zeros(4), r"expected float32 \(3\), got float64 \(4,\) - at `data`"),
        (np.zeros((1, 3)), r"expected float32 \(3\), got float64 \(1, 3\) - at `data`"),
        (np.zeros(3, np.complex64), r"got complex64 \(3,\) - at `data`"),
        (np.array(["1", "2", "3"]), "Not an array of numbers"),
    ],
)
def test_refuses_what_the_yaml_does_not_declare(
    backend: MXNetBackend, item: Any, sentence: str
) -> None:
    with pytest.raises(ShapeMismatch, match=sentence):
        backend.predict([item])


def test_refuses_what_the_graph_does_not_take(perceptron_path: str) -> None:
    """Without a declared shape it is the graph that knows."""
    undeclared = load(perceptron_path, module=PERCEPTRON)
    expected = r"expected .*\[4,3\].*, got data \(2, 5\) - at `data`"
    with pytest.raises(ShapeMismatch, match=expected):
        undeclared.predict([np.zeros(5)] * 2)
    assert undeclared.predict([np.zeros(3)])["output"].shape == (1, 2)


def test_refuses_a_batch_of_unlike_items(perceptron_path: str) -> None:
    with pytest.raises(ShapeMismatch, match=r"unlike: expected one shape, got \(3,\), \(4,\)"):
        load(perceptron_path, module=PERCEPTRON).predict([np.zeros(3), np.zeros(4)])


def test_predicts_from_another_thread_than_loaded(backend: MXNetBackend, perceptron: Any) -> None:
    items = some_items(5)

    async def predict_often() -> list[Any]:
        workers = Workers(4, "predict")
        calls = [partial(backend.predict, items[: 1 + i % 5]) for i in range(200)]
        try:
            return await asyncio.gather(*map(workers.run, calls))
        finally:
            workers.close()

    expected = perceptron_by_numpy(perceptron, np.stack(items))
    for index, outputs in enumerate(asyncio.run(predict_often())):
        np.testing.assert_allclose(outputs["output"], expected[: 1 + index % 5], rtol=1e-5)


async def test_a_model_serves_it(perceptron_path: str, perceptron: Any) -> None:
    declared = {
        "path": perceptron_path,
        "module": PERCEPTRON,
        "input": {"type": "tensor", "shape": [3]},
    }
    settings = parse_settings(MXNetSettings, {"model": declared})
    model = Model(settings, MXNetBackend(settings), name="net")
    await asyncio.to_thread(model.load)
    await asyncio.to_thread(model.warm_up)
    items = some_items(7)
    results = await model.predict(items)
    expected = perceptron_by_numpy(perceptron, np.stack(items))
    actual = np.stack([result.value["output"] for result in results])
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    model.close()


def test_a_gpu_is_used_only_by_an_mxnet_that_is_built_for_it(
    perceptron_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    backend = load(perceptron_path, module=PERCEPTRON)
    assert backend.predict(some_items(1))["output"].shape == (1, 2)


def test_before_load_and_after_close_it_does_not_predict(perceptron_path: str) -> None:
    backend = load(perceptron_path, module=PERCEPTRON)
    backend.close()
    with pytest.raises(PredictError, match="not loaded"):
        backend.predict(some_items(1))
    backend.close()


THREADS = """
import os, sys
from tests.deployments.mxnet.networks import load
backend = load(sys.argv[1], zoo="mobilenet0.25", threads={"compute": 1})
import numpy as np
before = len(os.listdir("/proc/self/task"))
backend.predict([np.zeros((3, 64, 64), np.float32)])
print(os.environ["OMP_NUM_THREADS"], len(os.listdir("/proc/self/task")) - before)
"""


def test_threads_of_the_yaml_win_over_rays(tmp_path: Path) -> None:
    net = mx.gluon.model_zoo.vision.get_model("mobilenet0.25")
    net.initialize()
    net(mx.nd.zeros((1, 3, 64, 64)))
    path = str(tmp_path / "net.params")
    net.save_parameters(path)
    run = subprocess.run(
        [sys.executable, "-c", THREADS, path],
        env=os.environ | {"OMP_NUM_THREADS": "3"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert run.stdout.split()[0] == "1"
    assert int(run.stdout.split()[1]) <= 1
