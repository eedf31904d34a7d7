"""What a closure's YAML says of its outputs: told in metadata, and kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from deployments.closure.backend import ClosureBackend, ClosureSettings
from rayserve_app.app import App, create_app
from rayserve_app.errors import ConfigurationError
from rayserve_app.inference.model import Model
from rayserve_app.settings.model import parse_settings
from tests.protocols import call

answers: list[Any] = []
"""What the closure returns next, as a function of the number of its items."""


def answer(items: Sequence[Any]) -> Any:
    return answers[-1](len(items))


SCORES = {"scores": {"dtype": "float32", "shape": [3]}}
BOTH = SCORES | {"label": {"dtype": "string"}}


def create(tensors: dict[str, Any], **options: Any) -> App:
    declared = {
        "function": f"{__name__}:answer",
        "input": {"type": "string"},
        "output": {"tensors": tensors},
    }
    settings = parse_settings(ClosureSettings, {"model": declared | options})
    model = Model(settings, ClosureBackend(settings), name="m")
    model.load()
    model.warm_up()
    return create_app(model)


async def infer(app: App, count: int = 2) -> Any:
    tensor = {"name": "string", "datatype": "BYTES", "shape": [count], "data": ["a"] * count}
    return await call(app, "POST", "/v2/models/m/infer", json={"inputs": [tensor]})


async def test_they_are_told_before_the_first_answer() -> None:
    app = create(BOTH)
    outputs = (await call(app, "GET", "/v2/models/m")).json()["outputs"]
    assert outputs == [
        {"name": "scores", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
    ]
    config = (await call(app, "GET", "/v2/models/m/config")).json()["output"]
    assert [(each["data_type"], each["dims"]) for each in config] == [
        ("TYPE_FP32", [3]),
        ("TYPE_STRING", [1]),
    ]
    document = (await call(app, "GET", "/openapi.json")).json()
    (example,) = document["components"]["schemas"]["OpenInferenceMetadata"]["examples"]
    assert example["outputs"] == outputs
    described = (await call(app, "GET", "")).json()
    assert [each["name"] for each in described["outputs"]] == ["scores", "label"]


@pytest.mark.parametrize(
    "result",
    [
        lambda count: [[0.5, 1, 2]] * count,
        lambda count: np.array([[0.5, 1, 2]] * count),
        lambda count: list(np.array([[0.5, 1, 2]] * count, np.float16)),
        lambda count: {"scores": [[0.5, 1, 2]] * count},
        lambda count: [(0.5, 1, 2)] * count,
    ],
)
async def test_lists_and_arrays_become_what_is_declared(result: Any) -> None:
    answers.append(result)
    app = create(SCORES)
    (output,) = (await infer(app)).json()["outputs"]
    assert output == {
        "name": "scores",
        "datatype": "FP32",
        "shape": [2, 3],
        "data": [0.5, 1.0, 2.0] * 2,
    }
    response = await call(app, "POST", "/v1/models/m:predict", json={"instances": ["a"]})
    assert response.json() == {"predictions": [[0.5, 1.0, 2.0]]}


async def test_several_outputs_are_a_mapping() -> None:
    answers.append(lambda count: {"label": ["cat"] * count, "scores": np.zeros((count, 3))})
    app = create(BOTH)
    scores, label = (await infer(app, 1)).json()["outputs"]
    assert (scores["name"], scores["shape"]) == ("scores", [1, 3])
    assert (label["name"], label["data"]) == ("label", ["cat"])


@pytest.mark.parametrize(
    ("tensors", "result", "sentence"),
    [
        (
            SCORES,
            lambda count: [[0.5, 1]] * count,
            "expected float32 (items, 3), got float64",
        ),
        (SCORES, lambda count: [0.5] * count, "float32 (items, 3), got float64"),
        (SCORES, lambda count: [["a", "b", "c"]] * count, "Not the output that is declared"),
        (SCORES, lambda count: [[[1, 2], [3]]] * count, "Results of unlike shapes"),
        (SCORES, lambda count: {"x": [[1, 2, 3]] * count}, "expected scores, got x"),
        (BOTH, lambda count: [[1, 2, 3]] * count, "The function names no outputs"),
        (
            {"n": {"dtype": "int64"}},
            lambda count: [0.5] * count,
            "expected int64 (items), got float64",
        ),
    ],
)
async def test_other_results_are_an_error(tensors: Any, result: Any, sentence: str) -> None:
    answers.append(result)
    response = await infer(create(tensors))
    assert response.status_code == 500
    assert sentence in response.json()["error"]


async def test_an_item_that_fails_fails_alone() -> None:
    def result(count: int) -> list[Any]:
        return [ValueError("no")] if count == 1 else [[1, 2, 3]] * (count - 1) + [ValueError("no")]

    answers.append(result)
    app = create(SCORES)
    batch = (await call(app, "POST", "/predict", json={"input_batch": ["a", "b"]})).json()
    assert "no" in batch["batch_predictions"][1]["default_explanation"]


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"y": {"dtype": "float33"}}, "neither a numpy type of numbers nor 'string'"),
        ({"y": {"dtype": "datetime64[s]"}}, "neither a numpy type of numbers nor 'string'"),
        ({"y": {}}, "dtype"),
        ({"y": {"dtype": "int8", "size": 3}}, "size"),
    ],
)
def test_a_wrong_declaration_is_refused(tensors: Any, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence) as caught:
        create(tensors)
    assert caught.value.path.startswith("args.model.output.tensors.y")
