"""Classify and regress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from rayserve_app.types import TensorSpec
from tests.protocols.tensorflow_serving.half_model import (
    BOTH,
    CLASSIFY,
    REGRESS,
    STANDARD,
    create,
    noting,
    post,
    refused,
)

CLASSES = [{"label": "cat", "score": 0.7}, {"label": "dög", "score": 0.1}]


async def test_the_best_classes_answer_classify() -> None:
    app = create(lambda images: [CLASSES] * len(images), input={"type": "image"})
    example = {"image": {"b64": STANDARD}, "caption": "seaside"}
    response = await post(app, CLASSIFY, {"examples": [example, example]})
    assert response.text == (
        '{\n    "results": [[["cat", 0.7], ["dög", 0.1]], [["cat", 0.7], ["dög", 0.1]]\n    ]\n}'
    )


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"classes": [[b"a", "b"]], "scores": [[0.5, 0.1]]}, [["a", 0.5], ["b", 0.1]]),
        ({"classes": [[b"a", "b"]]}, [["a", 0.0], ["b", 0.0]]),
        ({"scores": [[0.5, 0.1]], "other": [1]}, [["", 0.5], ["", 0.1]]),
        ({"softmax": [[0.5, 0.1]]}, [["", 0.5], ["", 0.1]]),
        ([[0.5, 0.1]], [["", 0.5], ["", 0.1]]),
        ([[["a", 0.5], ("b", 1)]], [["a", 0.5], ["b", 1.0]]),
        ([[{"label": b"a", "score": 1}]], [["a", 1.0]]),
        ([[(b"\xff", 1)]], [[{"b64": "/w=="}, 1.0]]),
        ([np.array([1.5, 2], ml_dtypes.bfloat16)], [["", 1.5], ["", 2.0]]),
        ([[]], []),
    ],
)
async def test_other_classifiers_answer_it_too(result: Any, expected: Any) -> None:
    if isinstance(result, dict):
        kinds = {name: object if name == "classes" else np.float32 for name in result}
        result = {name: np.array(value, kinds[name]) for name, value in result.items()}
    app = create(lambda _: result, input={"type": "string"})
    response = await post(app, CLASSIFY, {"examples": [{"string": "x"}]})
    assert response.json() == {"results": [expected]}


@pytest.mark.parametrize(
    ("method", "result", "sentence"),
    [
        ("classify", [5], "Expected classification signature outputs to contain at least one of"),
        ("classify", ["text"], 'at least one of "classes" or "scores"'),
        ("classify", [b"text"], "got bytes"),
        ("classify", {"a": np.zeros((1, 2)), "b": np.zeros(1)}, "got the outputs 'a', 'b'"),
        ("classify", {"a": np.zeros(1)}, "Expected Tensor shape: [batch_size num_classes] but got"),
        (
            "classify",
            {"classes": np.full((1, 2), "a"), "scores": np.zeros((1, 3))},
            "Tensors class and score should match in dim_size(1). Got 2 vs. 3",
        ),
        ("classify", {"scores": np.full((1, 2), "a")}, "got an output of <U1"),
        ("regress", {"a": np.zeros(1), "b": np.zeros(1)}, "Expected one output Tensor."),
        ("regress", {"a": np.zeros((1, 2))}, "[batch_size] or [batch_size, 1] but got [1,2]"),
        ("regress", ["text"], "Expected output Tensor of DT_FLOAT.  Got: object"),
    ],
)
async def test_a_model_that_is_neither_is_told(method: str, result: Any, sentence: str) -> None:
    app = create(lambda _: result, input={"type": "string"})
    body = {"examples": [{"string": "x"}]}
    assert sentence in await refused(app, f"/v1/models/m:{method}", body)


async def test_a_column_of_one_is_a_regression() -> None:
    app = create(lambda items: {"outputs": np.ones((len(items), 1)), "b": np.zeros(len(items))},
                 input={"type": "string"})  # fmt: skip
    response = await post(app, REGRESS, {"examples": [{"string": "x"}] * 2})
    assert response.json() == {"results": [1.0, 1.0]}


async def test_features_take_the_shape_of_the_input() -> None:
    shapes: list[Any] = []

    def note(items: Sequence[Any]) -> dict[str, Any]:
        shapes.extend(item.shape for item in items)
        return {"y": np.zeros(len(items))}

    for shape, values in (((-1, 2, 3), list(range(6))), ((-1, -1, 2), [1.0] * 4), ((-1, 1), 5)):
        app = create(note, [TensorSpec("x", "float32", shape)], input={"type": "tensor"},
                     warm_up=False)  # fmt: skip
        await post(app, REGRESS, {"examples": [{"x": values}]})
    assert shapes == [(2, 3), (2, 2), (1,)]


async def test_several_inputs_are_features_by_name() -> None:
    examples = [{"numbers": [1.0, 2.0], "scale": 2}, {"numbers": [3, 4], "scale": [3], "more": "x"}]
    seen: list[Any] = []
    app = create(
        noting(seen),
        BOTH,
        input={"type": "tensors"},
        warm_up=False,
    )
    response = await post(app, REGRESS, {"examples": examples})
    assert response.json() == {"results": [1.0, 1.0]}
    assert [(item["numbers"].tolist(), int(item["scale"])) for item in seen] == [
        ([1, 2], 2),
        ([3, 4], 3),
    ]
    assert "Feature: scale is required" in await refused(
        app, REGRESS, {"examples": [{"numbers": [1, 2]}]}
    )
