"""Metadata and configuration list the outputs of every model, as its answers have them: what
Triton's clients look up first."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton

from rayserve_app.app import App, create_app
from rayserve_app.types import Metadata, Reply, TensorSpec
from tests.clients.open_inference import without_scheme
from tests.protocols import create_model
from tests.protocols.open_inference.messages import create, get, infer, tensor
from tests.protocols.servers import serving

UNKNOWN = [{"name": "output", "datatype": "BYTES", "shape": [-1]}]


async def outputs_of(app: App, path: str = "") -> Any:
    return (await get(app, f"/v2/models/m{path}")).json()["outputs"]


async def infer_texts(app: App, count: int, *outputs: str) -> Any:
    request: dict[str, Any] = {"inputs": [tensor("string", "BYTES", [count], ["a"] * count)]}
    if outputs:
        request["outputs"] = [{"name": name} for name in outputs]
    request["parameters"] = {"binary_data_output": True}
    response = await infer(app, request)
    length = int(response.headers.get("inference-header-content-length", 0))
    assert response.status_code == 200, response.text
    return json.loads(response.content[:length])["outputs"]


def agree(declared: Sequence[Any], answered: Sequence[Any]) -> bool:
    """Return whether an answer is what the metadata says: names, types, and shapes."""
    return [each["name"] for each in declared] == [each["name"] for each in answered] and all(
        said["datatype"] == found["datatype"]
        and len(said["shape"]) == len(found["shape"])
        and all(own in (-1, size) for own, size in zip(said["shape"], found["shape"], strict=True))
        for said, found in zip(declared, answered, strict=True)
    )


RESULTS: dict[str, tuple[Callable[[Sequence[Any]], Any], list[tuple[str, str, list[int]]]]] = {
    "whole numbers": (lambda items: [1] * len(items), [("output", "INT64", [-1])]),
    "numbers": (lambda items: [1.5] * len(items), [("output", "FP64", [-1])]),
    "flags": (lambda items: [True] * len(items), [("output", "BOOL", [-1])]),
    "texts": (lambda items: ["a"] * len(items), [("output", "BYTES", [-1])]),
    "bytes": (lambda items: [b"a"] * len(items), [("output", "BYTES", [-1])]),
    "tuples": (lambda items: [(749, 600)] * len(items), [("output", "BYTES", [-1])]),
    "lists": (lambda items: [[1.5, 2]] * len(items), [("output", "BYTES", [-1])]),
    "objects": (lambda items: [{"label": "cat"}] * len(items), [("output", "BYTES", [-1])]),
    "an array": (
        lambda items: list(np.zeros((len(items), 3), np.float32)),
        [("output", "FP32", [-1, 3])],
    ),
    "scalars of numpy": (
        lambda items: list(np.zeros(len(items), np.uint8)),
        [("output", "UINT8", [-1])],
    ),
    "named arrays": (
        lambda items: {
            "scores": np.zeros((len(items), 4, 2), np.float16),
            "label": np.array(["cat"] * len(items)),
        },
        [("scores", "FP16", [-1, 4, 2]), ("label", "BYTES", [-1])],
    ),
    "replies": (lambda items: [Reply("[1]")] * len(items), [("output", "BYTES", [-1])]),
}


@pytest.mark.parametrize(("function", "outputs"), RESULTS.values(), ids=RESULTS)
async def test_what_was_answered_is_what_is_told(
    function: Callable[[Sequence[Any]], Any], outputs: list[tuple[str, str, list[int]]]
) -> None:
    app = create(function, input={"type": "string"})
    expected = [{"name": n, "datatype": d, "shape": s} for n, d, s in outputs]
    assert await outputs_of(app) == UNKNOWN
    answered = await infer_texts(app, 2)
    assert await outputs_of(app) == expected
    assert await outputs_of(app, "/versions/1") == expected
    assert agree(expected, answered)
    assert agree(expected, await infer_texts(app, 1))
    names = [each["name"] for each in expected]
    assert agree(expected, await infer_texts(app, 3, *names))
    config = (await get(app, "/v2/models/m/config")).json()["output"]
    assert [each["name"] for each in config] == names
    for each, (_, datatype, shape) in zip(config, outputs, strict=True):
        known = "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
        assert (each["data_type"], each["dims"]) == (known, shape[1:] or [1])


BLANKS: dict[str, Any] = {
    "images": {"input": {"type": "image", "size": [8, 12]}},
    "tensors": {
        "input": {"type": "tensor"},
        "metadata": Metadata("test", (TensorSpec("x", "float32", (-1, 4)),)),
    },
    "encoded images": {
        "input": {"type": "bytes"},
        "metadata": Metadata("test", (TensorSpec("x", "string", (-1,)),)),
    },
}


@pytest.mark.parametrize("options", BLANKS.values(), ids=BLANKS)
async def test_the_warm_up_tells_before_the_first_request(options: dict[str, Any]) -> None:
    def answer(items: Sequence[Any]) -> dict[str, Any]:
        return {"scores": np.zeros((len(items), 5), np.float32), "best": np.zeros(len(items), int)}

    app = create_app(create_model(answer, protocols=["open_inference"], **options))
    assert await outputs_of(app) == [
        {"name": "scores", "datatype": "FP32", "shape": [-1, 5]},
        {"name": "best", "datatype": "INT64", "shape": [-1]},
    ]


async def test_what_a_model_says_itself_stands() -> None:
    declared = [TensorSpec("y", "float32", (-1, 4))]
    app = create(
        lambda items: {"y": np.zeros((len(items), 4), np.float32)},
        outputs=declared,
        input={"type": "string"},
    )
    for _ in range(2):
        assert await outputs_of(app) == [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}]
        await infer_texts(app, 1)


async def test_lengths_that_vary_are_any_length() -> None:
    lengths = iter([3, 5, 3])

    def answer(items: Sequence[Any]) -> dict[str, Any]:
        return {"boxes": np.zeros((len(items), next(lengths), 4), np.float32)}

    app = create(answer, input={"type": "string"})
    shapes = []
    for _ in range(3):
        answered = await infer_texts(app, 1)
        told = await outputs_of(app)
        assert agree(told, answered)
        shapes.append(told[0]["shape"])
    assert shapes == [[-1, 3, 4], [-1, -1, 4], [-1, -1, 4]]


async def test_the_name_that_was_told_first_stays_the_only_outputs() -> None:
    app = create(lambda items: {"scores": np.zeros((len(items), 2))}, input={"type": "string"})
    (told,) = await outputs_of(app)
    (answered,) = await infer_texts(app, 1, told["name"])
    assert (answered["name"], answered["shape"]) == (told["name"], [1, 2])
    assert [each["name"] for each in await outputs_of(app)] == ["scores"]
    (answered,) = await infer_texts(app, 1, told["name"])
    assert answered["name"] == told["name"]


async def test_of_several_outputs_none_has_another_name() -> None:
    app = create(
        lambda items: {name: np.zeros(len(items)) for name in ("a", "b")},
        input={"type": "string"},
    )
    request = {
        "inputs": [tensor("string", "BYTES", [1], ["a"])],
        "outputs": [{"name": "output"}],
    }
    response = await infer(app, request)
    assert response.status_code == 400
    assert "expected one of a, b" in response.json()["error"]


def test_tritons_client_finds_the_output_of_a_closure() -> None:
    """As its examples do: image_client.py, parse_model."""
    model = create_model(
        lambda items: [len(item) for item in items],
        input={"type": "string"},
        protocols=["open_inference"],
    )
    with (
        serving(model) as url,
        triton.InferenceServerClient(without_scheme(url)) as client,
    ):
        metadata = client.get_model_metadata("m")
        config = client.get_model_config("m")
        assert len(metadata["outputs"]) == len(config["output"]) == 1
        name = metadata["outputs"][0]["name"]
        given = triton.InferInput(metadata["inputs"][0]["name"], [2, 1], "BYTES")
        given.set_data_from_numpy(np.array([["a"], ["bcd"]], dtype=object))
        result = client.infer("m", [given], outputs=[triton.InferRequestedOutput(name)])
        assert result.as_numpy(name).tolist() == [1, 3]


async def test_tensorflow_servings_signatures_list_what_was_seen() -> None:
    app = create(
        lambda items: {"scores": np.zeros((len(items), 2), np.float32)},
        input={"type": "image", "size": [8, 8]},
        protocols=["tensorflow_serving", "simple_tensorflow_serving"],
    )
    document = (await get(app, "/v1/models/m/metadata")).json()
    (signature,) = document["metadata"]["signature_def"]["signature_def"].values()
    info = signature["outputs"]["scores"]
    assert info["dtype"] == "DT_FLOAT"
    assert [dim["size"] for dim in info["tensor_shape"]["dim"]] == ["-1", "2"]
    (described,) = (await get(app, "/v1/models")).json()
    assert described["model_signature"]["outputs"] == [
        {"name": "scores", "dtype": 1, "shape": [-1, 2]}
    ]
