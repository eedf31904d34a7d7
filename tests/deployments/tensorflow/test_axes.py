"""SavedModels of which not every tensor has a batch axis, in every protocol.

What they must answer is what TensorFlow answers by hand, in the shape that TensorFlow gives it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import pytest

from deployments.tensorflow.backend import TensorFlowBackend, TensorFlowSettings
from deployments.tensorflow.signature import Batching
from rayserve_app.app import App, create_app
from rayserve_app.inference.model import Model
from rayserve_app.types import Row
from tests.protocols import call

tf = pytest.importorskip("tensorflow")

LABELS: Final = ["cat", "dog", "größe"]
X: Final = np.array([[1, 2], [3, -4]], np.float32)
SCORES: Final = (X @ np.array([[1, 0, 2], [0, 1, -1]], np.float32) * np.float32(0.5)).tolist()


def save(path: Path, call: Any, *specs: Any) -> str:
    function = tf.function(call, input_signature=specs)
    tf.saved_model.save(tf.Module(), str(path), signatures=function)
    return str(path)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Scores by rows, labels once, and two scalars that hold for a whole call."""

    def classify(x: Any, keep_prob: Any, phase_train: Any) -> dict[str, Any]:
        weights = tf.constant([[1, 0, 2], [0, 1, -1]], tf.float32)
        scores = tf.where(phase_train, 0.0, tf.matmul(x, weights) * keep_prob)
        return {"scores": scores, "labels": tf.constant(LABELS)}

    return save(
        tmp_path_factory.mktemp("classifier"),
        classify,
        tf.TensorSpec((None, 2), tf.float32, "x"),
        tf.TensorSpec((), tf.float32, "keep_prob"),
        tf.TensorSpec((), tf.bool, "phase_train"),
    )


def create(path: str, **settings: Any) -> Model:
    declared = {"path": path, "input": {"type": "tensors"}, **settings}
    found = TensorFlowSettings.model_validate(declared)
    model = Model(found, TensorFlowBackend(path=path), name="m")
    model.load()
    model.warm_up()
    return model


@pytest.fixture
def app(classifier: str) -> Iterator[App]:
    model = create(classifier)
    yield create_app(model)
    model.close()


COLUMNS: Final = {"x": X.tolist(), "keep_prob": 0.5, "phase_train": False}
ROW: Final = {"x": X[0].tolist(), "keep_prob": 0.5, "phase_train": False}


def tensors(shape: list[int]) -> list[dict[str, Any]]:
    """Return inputs of the Open Inference Protocol, the scalars in that shape."""
    return [
        {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": X.tolist()},
        {"name": "keep_prob", "datatype": "FP32", "shape": shape, "data": [0.5]},
        {"name": "phase_train", "datatype": "BOOL", "shape": shape, "data": [False]},
    ]


@pytest.mark.parametrize("keep_prob", [0.5, [0.5]])
async def test_tensorflow_servings_columns_are_as_the_graph_gives_them(
    app: App, keep_prob: Any
) -> None:
    body = {"inputs": COLUMNS | {"keep_prob": keep_prob}}
    answer = await call(app, "POST", "/v1/models/m:predict", json=body)
    assert answer.json() == {"outputs": {"scores": SCORES, "labels": LABELS}}


@pytest.mark.parametrize(
    ("count", "sentence"),
    [
        (1, "labels has inconsistent batch size: 3 expecting: 1"),
        (2, "labels has inconsistent batch size: 3 expecting: 2"),
        (3, "labels has no batch axis"),
    ],
)
async def test_tensorflow_servings_rows_are_refused(app: App, count: int, sentence: str) -> None:
    answer = await call(app, "POST", "/v1/models/m:predict", json={"instances": [ROW] * count})
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]


@pytest.mark.parametrize("shape", [[], [1]])
async def test_open_inference_answers_tensors_as_the_graph_gives_them(
    app: App, shape: list[int]
) -> None:
    body = {"inputs": tensors(shape)}
    answer = (await call(app, "POST", "/v2/models/m/infer", json=body)).json()
    outputs = {each["name"]: each for each in answer["outputs"]}
    assert outputs["scores"]["shape"] == [2, 3]
    assert outputs["scores"]["data"] == np.ravel(SCORES).tolist()
    assert outputs["labels"] == {
        "name": "labels",
        "datatype": "BYTES",
        "shape": [3],
        "data": LABELS,
    }


async def test_open_inference_answers_them_in_binary(app: App) -> None:
    body = {
        "inputs": tensors([]),
        "outputs": [{"name": "labels", "parameters": {"binary_data": True}}],
    }
    answer = await call(app, "POST", "/v2/models/m/infer", json=body)
    data = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in LABELS)
    assert answer.content.endswith(data)
    (output,) = json.loads(answer.content[: -len(data)])["outputs"]
    assert output["shape"] == [3]


async def test_simple_tensorflow_serving_answers_what_a_session_answers(app: App) -> None:
    answer = await call(app, "POST", "", json={"data": COLUMNS})
    assert answer.json() == {"scores": SCORES, "labels": LABELS}


async def test_an_item_alone_has_the_labels_beside_its_scores(app: App) -> None:
    """For protocols without columns an item's result is the whole of it."""
    expected = {"scores": SCORES[0], "labels": LABELS}
    found = (await call(app, "POST", "/invocations", json=[ROW, ROW])).json()
    assert found == [expected, expected]
    answer = (await call(app, "POST", "/predict", json={"input": ROW})).json()
    assert answer["output"] == expected


def test_a_handle_gets_each_items_own(classifier: str) -> None:
    model = create(classifier)
    scalars = {"keep_prob": np.float32(0.5), "phase_train": np.bool_(False)}
    results = asyncio.run(model.predict([{"x": row, **scalars} for row in X]))
    for result, scores in zip(results, SCORES, strict=True):
        assert isinstance(result, Row)
        np.testing.assert_array_equal(result.value["scores"], scores)
        assert [label.decode() for label in result.value["labels"]] == LABELS
    model.close()


async def test_a_scalar_is_described_as_one(app: App) -> None:
    described = (await call(app, "GET", "/v2/models/m")).json()
    assert {each["name"]: each["shape"] for each in described["inputs"]} == {
        "x": [-1, 2],
        "keep_prob": [],
        "phase_train": [],
    }
    assert {each["name"]: each["shape"] for each in described["outputs"]} == {
        "scores": [-1, 3],
        "labels": [3],
    }
    definition = (await call(app, "GET", "/v1/models/m/metadata")).json()["metadata"]
    inputs = definition["signature_def"]["signature_def"]["serving_default"]["inputs"]
    assert inputs["keep_prob"]["tensor_shape"] == {"dim": [], "unknown_rank": False}
    (listed,) = (await call(app, "GET", "/v1/models", headers={"accept": "*/*"})).json()
    shapes = {each["name"]: each["shape"] for each in listed["model_signature"]["inputs"]}
    assert shapes["keep_prob"] == []
    own = (await call(app, "GET", "/")).json()
    scalar = {"name": "keep_prob", "datatype": "float32", "shape": [], "has_batch_axis": False}
    assert scalar in own["inputs"]


async def test_an_example_of_scalars_is_answered(app: App) -> None:
    example = await call(app, "GET", "/v1/models/m/gen_json")
    answer = await call(app, "POST", "", json=example.json())
    assert answer.json()["labels"] == LABELS


def test_items_of_one_keep_prob_share_a_call(tmp_path: Path) -> None:
    path = save(
        tmp_path,
        lambda x, keep_prob: {"y": x * keep_prob, "n": tf.fill(tf.shape(x)[:1], tf.shape(x)[0])},
        tf.TensorSpec((None, 2), tf.float32, "x"),
        tf.TensorSpec((), tf.float32, "keep_prob"),
    )
    backend = TensorFlowBackend(path=path)
    backend.load()
    (signature,) = backend.versions()["1"].values()

    def item(row: Any, keep_prob: float) -> dict[str, Any]:
        return {"x": row, "keep_prob": np.array(keep_prob, np.float32)}

    alike = [item(row, 0.5) for row in X]
    assert signature.bucket(alike[0]) == signature.bucket(alike[1])
    assert signature.bucket(alike[0]) != signature.bucket(item(X[0], 0.25))
    assert signature.predict(alike)["n"].tolist() == [2, 2]
    outputs = signature.predict([alike[0], item(X[0], 0.25)])
    np.testing.assert_array_equal(outputs["y"], [X[0] * 0.5, X[0] * 0.25])
    assert outputs["n"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("inputs", "outputs", "expected"),
    [
        ({"x": (-1, 2)}, {"y": (-1,)}, (0, "", "")),
        ({"x": None}, {"y": None}, (0, "", "")),
        ({"x": (-1, 2), "k": ()}, {"y": (-1,), "n": ()}, (0, "k", "n")),
        ({"x": (8, 2)}, {"y": (8,), "n": (3,)}, (8, "", "n")),
        ({"x": (1, 2)}, {"y": (3,)}, (1, "", "y")),
        ({"x": (28, 28)}, {"y": (10,)}, (1, "x", "y")),
        ({"x": (28, 28)}, {"y": None}, (28, "", "")),
        ({"x": (-1, 4), "anchors": (9, 4)}, {"y": (-1, 9)}, (0, "anchors", "")),
        ({"a": (2,), "b": (3,)}, {"y": (2,)}, (1, "ab", "y")),
        ({"k": ()}, {"y": ()}, (1, "k", "y")),
        ({}, {"y": (3,)}, (1, "", "y")),
    ],
)
def test_shapes_tell_the_batch_axis(inputs: Any, outputs: Any, expected: Any) -> None:
    found = Batching.of(inputs, outputs)
    size, without, once = expected
    assert found.size == size
    assert found.inputs == {name for name in inputs if name[0] in without}
    assert found.outputs == {name for name in outputs if name[0] in once}


async def test_a_model_of_scalars_alone_is_a_call_for_each_item(tmp_path: Path) -> None:
    path = save(tmp_path, lambda x: {"y": x * 2}, tf.TensorSpec((), tf.float32, "x"))
    model = create(path, input={"type": "tensor"})
    app = create_app(model)
    columns = await call(app, "POST", "/v1/models/m:predict", json={"inputs": 1.5})
    assert columns.json() == {"outputs": 3.0}
    rows = await call(app, "POST", "/v1/models/m:predict", json={"instances": [1.5, 2]})
    assert (rows.status_code, "y has no shape information" in rows.text) == (400, True)
    tensor = {"name": "x", "datatype": "FP32", "shape": [], "data": [1.5]}
    answer = await call(app, "POST", "/v2/models/m/infer", json={"inputs": [tensor]})
    output = {"name": "y", "datatype": "FP32", "shape": [], "data": [3.0]}
    assert answer.json()["outputs"] == [output]
    for path_, body in (("/invocations", 1.5), ("", {"data": {"x": 1.5}})):
        found = (await call(app, "POST", path_, json=body)).json()
        assert found in (3.0, {"y": 3.0})
    model.close()


async def test_an_output_that_depends_on_the_whole_call_is_the_requests_own(
    tmp_path: Path,
) -> None:
    """Nothing of another request's items may be in a mean over the batch."""
    path = save(
        tmp_path,
        lambda x: {"y": x, "mean": tf.reduce_mean(x)},
        tf.TensorSpec((None, 2), tf.float32, "x"),
    )
    model = create(path, input={"type": "tensor"}, batching={"max_batch_size": 4})
    asked = [model.predict([row]) for row in X] + [model.predict(list(X))]
    means = [
        [float(row.value["mean"]) for row in rows if isinstance(row, Row)]
        for rows in await asyncio.gather(*asked)
    ]
    assert means == [[1.5], [-0.5], [0.5, 0.5]]
    app = create_app(model)
    columns = await call(app, "POST", "/v1/models/m:predict", json={"inputs": X.tolist()})
    assert columns.json() == {"outputs": {"y": X.tolist(), "mean": 0.5}}
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": X.tolist()}
    answer = await call(app, "POST", "/v2/models/m/infer", json={"inputs": [tensor]})
    outputs = {each["name"]: each for each in answer.json()["outputs"]}
    assert (outputs["mean"]["shape"], outputs["mean"]["data"]) == ([], [0.5])
    many = await call(app, "POST", "/v1/models/m:predict", json={"inputs": [*X.tolist()] * 3})
    assert many.status_code == 200  # the means of both calls are the same
    long = await call(
        app, "POST", "/v1/models/m:predict", json={"inputs": [[i, i] for i in range(6)]}
    )
    assert long.status_code == 400
    assert "'mean' has no batch axis, and is not the same for all items" in long.json()["error"]
    model.close()


async def test_no_answer_is_kept_that_depends_on_the_whole_call(tmp_path: Path) -> None:
    path = save(
        tmp_path,
        lambda x: {"mean": tf.reduce_mean(x)},
        tf.TensorSpec((None, 2), tf.float32, "x"),
    )
    model = create(path, input={"type": "tensor"}, cache={"max_mb": 1})
    for items, mean in ((list(X), 0.5), ([X[0]], 1.5)):
        for row in await model.predict(items):
            assert isinstance(row, Row)
            assert float(row.value["mean"]) == mean
    model.close()


async def test_images_have_labels_beside_their_scores(tmp_path: Path) -> None:
    path = save(
        tmp_path,
        lambda image: {"mean": tf.reduce_mean(image, [1, 2, 3]), "labels": tf.constant(LABELS)},
        tf.TensorSpec((None, 4, 4, 3), tf.float32, "image"),
    )
    declared = {"type": "image", "size": [4, 4], "scale": 1.0}
    model = create(path, input=declared)
    ok, png = cv2.imencode(".png", np.full((4, 4, 3), 7, np.uint8))
    assert ok
    answer = await call(create_app(model), "POST", "/invocations", content=png.tobytes())
    assert answer.json() == {"mean": 7.0, "labels": LABELS}
    model.close()


async def test_a_scalar_comes_beside_an_image_as_metadata(tmp_path: Path) -> None:
    path = save(
        tmp_path,
        lambda image, keep_prob: {"y": tf.reduce_mean(image, [1, 2, 3]) * keep_prob},
        tf.TensorSpec((None, 4, 4, 3), tf.float32, "image"),
        tf.TensorSpec((), tf.float32, "keep_prob"),
    )
    declared = {"type": "image", "codec": "json_metadata", "size": [4, 4], "scale": 1.0}
    model = create(path, input=declared)
    ok, png = cv2.imencode(".png", np.full((4, 4, 3), 8, np.uint8))
    assert ok
    body = {"data": base64.b64encode(png.tobytes()).decode(), "keep_prob": 0.5}
    answer = await call(create_app(model), "POST", "/invocations", json=body)
    assert answer.json() == 4.0
    model.close()
