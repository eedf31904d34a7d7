"""TensorFlow Serving's REST API on real SavedModels: of TensorFlow 2, and of estimators."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from rayserve_app.app import App, create_app
from rayserve_app.inference.model import Model
from rayserve_app.settings.model import ModelSettings
from tests.protocols import call

tf = pytest.importorskip("tensorflow")

ABOUT_HALF = "/v1/models/half_plus_three"
ABOUT_ESTIMATOR = "/v1/models/estimator"


@contextmanager
def served(path: Path, name: str, **options: Any) -> Iterator[App]:
    from deployments.tensorflow.backend import TensorFlowBackend

    options = {"protocols": ["tensorflow_serving"], "input": {"type": "tensor"}} | options
    backend = TensorFlowBackend(path=str(path), versions="all")
    model = Model(ModelSettings.model_validate(options), backend, name=name)
    model.load()
    model.warm_up()
    yield create_app(model)
    model.close()


async def post(app: App, path: str, **document: Any) -> httpx.Response:
    return await call(app, "POST", path, content=json.dumps(document).encode())


class HalfPlus(tf.Module):
    def __init__(self, constant: float) -> None:
        super().__init__()
        self.constant = constant

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def __call__(self, x: Any) -> dict[str, Any]:
        return {"y": x / 2 + self.constant}


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """Version 123 is y = x / 2 + 3, version 124 y = x / 2 + 4."""
    path = tmp_path_factory.mktemp("half")
    for version, constant in ((123, 3.0), (124, 4.0)):
        module = HalfPlus(constant)
        tf.saved_model.save(module, str(path / f"{version:08}"), signatures=module.__call__)
    labels = {"tensorflow_serving": {"version_labels": {"stable": "123"}}}
    with served(path, "half_plus_three", protocol_settings=labels) as app:
        yield app


async def test_the_latest_version_answers(half: App) -> None:
    response = await post(half, f"{ABOUT_HALF}:predict", instances=[1.0, 2.0, 5.0])
    assert response.content == b'{\n    "predictions": [4.5, 5.0, 6.5\n    ]\n}'


@pytest.mark.parametrize("choice", ["versions/123", "versions/00000123", "labels/stable"])
async def test_others_answer_by_number_and_label(half: App, choice: str) -> None:
    response = await post(half, f"{ABOUT_HALF}/{choice}:predict", inputs=[1.0, 2.0, 5.0])
    assert response.json() == {"outputs": [3.5, 4.0, 5.5]}
    status = (await call(half, "GET", f"{ABOUT_HALF}/{choice}")).json()
    assert [each["version"] for each in status["model_version_status"]] == ["123"]
    metadata = (await call(half, "GET", f"{ABOUT_HALF}/{choice}/metadata")).json()
    assert metadata["model_spec"]["version"] == "123"


async def test_the_status_lists_versions_from_the_newest(half: App) -> None:
    status = (await call(half, "GET", ABOUT_HALF)).json()
    assert [each["version"] for each in status["model_version_status"]] == ["124", "123"]


@pytest.fixture(scope="module")
def estimator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """`regress` is x / 2 + 3 of each example's `x`, `classify` scores two labels with x and the
    length of `text`."""
    v1 = tf.compat.v1
    features = {
        "x": v1.io.FixedLenFeature([], tf.float32, default_value=0.0),
        "text": v1.io.FixedLenFeature([], tf.string, default_value=""),
    }
    path = tmp_path_factory.mktemp("package") / "estimator" / "1"
    with v1.Graph().as_default(), v1.Session() as session:
        examples = v1.placeholder(tf.string, [None], "examples")
        parsed = v1.io.parse_example(examples, features)
        x = parsed["x"]
        length = tf.cast(tf.strings.length(parsed["text"]), tf.float32)
        scores = tf.stack([x, length], axis=1)
        labels = tf.tile(tf.constant([["car", "büs"]]), [tf.size(x), 1])
        methods = v1.saved_model
        signatures = {
            "serving_default": methods.regression_signature_def(examples, x / 2 + 3),
            "classify": methods.classification_signature_def(examples, labels, scores),
            "scores": methods.classification_signature_def(examples, None, scores),
        }
        builder = methods.Builder(str(path))
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map=signatures)
        builder.save()
    with served(path.parent, "estimator") as app:
        yield app


async def test_estimators_parse_the_examples_themselves(estimator: App) -> None:
    response = await post(
        estimator, f"{ABOUT_ESTIMATOR}:regress", examples=[{"x": [1.0]}, {"x": 2.0}, {}]
    )
    assert response.content == b'{\n    "results": [3.5, 4.0, 3.0]\n}'


@pytest.mark.parametrize(
    ("signature", "expected"),
    [
        ("classify", [[["car", 0.5], ["büs", 2.0]], [["car", 0.0], ["büs", 3.0]]]),
        ("scores", [[["", 0.5], ["", 2.0]], [["", 0.0], ["", 3.0]]]),
    ],
)
async def test_estimators_classify(estimator: App, signature: str, expected: Any) -> None:
    response = await post(
        estimator,
        f"{ABOUT_ESTIMATOR}:classify",
        signature_name=signature,
        examples=[{"x": 0.5, "text": "ab"}, {"text": {"b64": "YWJj"}}],
    )
    assert response.json() == {"results": expected}


async def test_an_example_that_tensorflow_refuses_is_the_callers_fault(estimator: App) -> None:
    response = await post(estimator, f"{ABOUT_ESTIMATOR}:regress", examples=[{"x": "a"}])
    assert response.status_code == 400
    assert "Data types don't match" in response.json()["error"]
