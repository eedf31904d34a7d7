"""TensorFlow Serving's documents at SageMaker's paths: answered as SageMaker's container does."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.tensorflow.backend import TensorFlowBackend, TensorFlowSettings
from rayserve_app.app import App, create_app
from rayserve_app.inference.model import Model
from rayserve_app.settings.model import parse_settings
from tests.deployments.packages import served
from tests.protocols import call, create_model

ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """(N, 2) numbers, halved and summed; the input is called as a key of the documents."""
    import tensorflow as tf

    class Pairs(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, "inputs")])
        def __call__(self, inputs: Any) -> dict[str, Any]:
            return {"half": inputs / 2, "sum": tf.reduce_sum(inputs, 1)}

    path = tmp_path_factory.mktemp("pairs") / "pairs"
    model = Pairs()
    tf.saved_model.save(model, str(path / "1"), signatures=model.__call__)
    return path


@contextmanager
def tensorflow(path: Path, kind: str, name: str, **settings: Any) -> Iterator[App]:
    declared = {"path": str(path), "input": {"type": kind}, **settings}
    parsed = parse_settings(TensorFlowSettings, {"model": declared})
    backend = TensorFlowBackend(
        path=parsed.path, outputs=parsed.output.outputs, versions=parsed.versions
    )
    model = Model(parsed, backend, name=name)
    try:
        model.load()
        model.warm_up()
        yield create_app(model)
    finally:
        model.close()


async def post(app: App, body: str, path: str = "/invocations", **headers: str) -> Any:
    named = {"content-type": "application/json"}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    return await call(app, "POST", path, content=body, headers=named)


ROWS = [[1.0, 2.0], [3.0, 5.0]]


@pytest.mark.parametrize("kind", ["tensor", "tensors"])
@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"instances": ROWS}, {}),
        ({"instances": [{"inputs": row} for row in ROWS]}, {}),
        ({"inputs": ROWS}, {}),
        ({"inputs": {"inputs": ROWS}}, {"accept": "*/*"}),
        ({"signature_name": "serving_default", "instances": ROWS}, {"accept": "application/json"}),
        ({"instances": ROWS}, {"accept": "application/jsonlines, text/csv"}),
        ({"instances": ROWS}, {"content_type": "application/jsonlines"}),
        ({"instances": ROWS}, {ATTRIBUTES: "a=1;tfs-model-name=pairs,tfs-model-version=1"}),
        ({"signature_name": "absent", "instances": ROWS}, {}),
        ({"instances": [["a", "b"]]}, {}),
        ({"instances": []}, {}),
        ({"instances": ROWS, "inputs": ROWS}, {}),
        ({"instances": 1}, {}),
    ],
)
async def test_a_document_is_answered_as_the_container_does(
    pairs: Path, kind: str, body: Any, headers: dict[str, str]
) -> None:
    text = json.dumps(body)
    with served(pairs.parent) as container:
        expected = await post(container, text, **headers)
    with tensorflow(pairs, kind, "pairs") as app:
        response = await post(app, text, **headers)
        runtime = await post(app, text, "/endpoints/pairs/invocations", **headers)
    assert (response.status_code, response.json()) == (expected.status_code, expected.json())
    assert response.headers["content-type"] == expected.headers["content-type"]
    if expected.status_code == 200:
        # Outputs may stand in another order, but as many to a line.
        assert response.text.count("\n") == expected.text.count("\n")
        assert runtime.json() == expected.json()
    else:
        assert runtime.status_code == 424
        assert json.loads(runtime.json()["OriginalMessage"]) == expected.json()


async def test_the_golden_answer_of_the_containers_own_tests(half_plus_three: Path) -> None:
    """test/integration/local/test_container.py, with its model y = x / 2 + 3."""
    with tensorflow(half_plus_three, "tensor", "half_plus_three") as app:
        rows = await post(app, '{"instances": [1.0, 2.0, 5.0]}')
        columns = await post(app, '{"inputs": [1.0, 2.0, 5.0]}')
    assert rows.json() == {"predictions": [3.5, 4.0, 5.5]}
    assert columns.json() == {"outputs": [3.5, 4.0, 5.5]}


async def test_other_documents_are_what_they_were(pairs: Path, named: Path) -> None:
    with tensorflow(pairs, "tensor", "pairs") as app:
        plain = await post(app, json.dumps(ROWS))
        assert plain.json() == [{"half": [0.5, 1], "sum": 3}, {"half": [1.5, 2.5], "sum": 8}]
        odd = await post(app, '{"data": {"instances": [[1, 2]]}}')
        assert odd.status_code == 400
        assert "instances" not in odd.json()["error"]
    numbers = {"outputs": ["total", "length"]}
    with tensorflow(named, "tensors", "named", output=numbers) as app:
        item = await post(app, json.dumps({"numbers": [1, 2], "text": "instances"}))
        assert item.json() == {"total": 3, "length": 9}
        many = {"instances": [{"numbers": [1, 2], "text": "a"}]}
        expected = {"predictions": [{"total": 3.0, "length": 1}]}
        assert (await post(app, json.dumps(many))).json() == expected


async def test_a_document_of_images_is_read_as_tensorflow_serving_reads_it(yolov3: Path) -> None:
    import cv2

    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    png = base64.b64encode(cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()).decode()
    text = json.dumps({"instances": [{"b64": png}]})
    declared = {"type": "image", "scale": 1.0}
    with tensorflow(yolov3, "image", "y", input=declared, output={"outputs": ["conv2d_58"]}) as app:
        response = await post(app, text)
        serving = await post(app, text, "/v1/models/y:predict")
    assert response.text == serving.text
    (scores,) = response.json()["predictions"]
    np.testing.assert_allclose(scores, pixels.mean((0, 1)))


async def test_other_methods_take_examples(pairs: Path, half_plus_three: Path) -> None:
    with tensorflow(half_plus_three, "tensor", "half_plus_three") as app:
        examples = '{"examples": [{"x": 1.0}, {"x": 2.0}]}'
        regressed = await post(app, examples, **{ATTRIBUTES: "tfs-method=regress"})
        assert regressed.json() == {"results": [3.5, 4.0]}
        refused = await post(app, "[1.0]", **{ATTRIBUTES: "tfs-method=regress"})
        assert (refused.status_code, "examples" in refused.text) == (400, True)
        unknown = await post(app, "[1.0]", **{ATTRIBUTES: "tfs-method=explain"})
        assert (unknown.status_code, "No such method" in unknown.text) == (400, True)


async def test_a_model_of_another_framework_reads_what_it_always_did() -> None:
    model = create_model(
        lambda items: [sorted(item) for item in items], input={"type": "tensors"}, warm_up=False
    )
    response = await post(create_app(model), '{"instances": [[1, 2]]}')
    assert response.json() == ["instances"]
