"""An input has the type and the shape that the model's metadata says, or the request is refused:
nothing is cast in silence. Words: Triton's core, infer_request.cc."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rayserve_app.app import App
from rayserve_app.types import TensorSpec
from tests.protocols import call
from tests.protocols.open_inference.messages import (
    DTYPES,
    arrays,
    create,
    create_echo,
    create_images,
    create_lengths,
    infer,
    length_prefixed,
    tensor,
)


def refusal(name: str, got: str, expected: str) -> dict[str, str]:
    """Return Triton's answer to an input of another type."""
    return {
        "error": f"inference input '{name}' data-type is '{got}', but model 'm' expects"
        f" '{expected}'"
    }


NUMBERS = [datatype for datatype in DTYPES if datatype != "FP16"]


def create_model_of(datatype: str) -> App:
    return create_echo(TensorSpec("x", np.dtype(DTYPES[datatype]).name, (-1, 2)))


@pytest.mark.parametrize("expected", DTYPES)
async def test_numbers_of_another_type_are_refused_in_binary_and_json(expected: str) -> None:
    app = create_model_of(expected)
    for sent in DTYPES:
        values = np.array([[1, 0]]).astype(DTYPES[sent])
        binary = tensor("x", sent, [1, 2], parameters={"binary_data_size": values.nbytes})
        response = await infer(app, {"inputs": [binary]} | BINARY_OUTPUT, values.tobytes())
        if sent == expected:
            assert arrays(response)["OUTPUT0"] == values.tolist()
        else:
            assert response.status_code == 400
            assert response.json() == refusal("x", sent, expected)
        if sent == "FP16":
            continue  # JSON cannot carry it
        in_json = tensor("x", sent, [1, 2], values.ravel().tolist())
        response = await infer(app, {"inputs": [in_json]} | BINARY_OUTPUT)
        assert response.status_code == (200 if sent == expected else 400)


BINARY_OUTPUT = {"parameters": {"binary_data_output": True}}


async def test_int64_is_not_float32() -> None:
    """2**53 + 1 as FP32 would be another number."""
    app = create_echo()
    data = [2**53 + 1, 2, 3, 4]
    response = await infer(app, {"inputs": [tensor("INPUT0", "INT64", [1, 4], data)]})
    assert response.status_code == 400
    assert response.json() == refusal("INPUT0", "INT64", "FP32")


async def test_numbers_are_no_text_and_text_no_numbers() -> None:
    blob = length_prefixed(b"1", b"2")
    binary = tensor("x", "BYTES", [1, 2], parameters={"binary_data_size": len(blob)})
    for document, *blobs in (
        ({"inputs": [tensor("x", "BYTES", [1, 2], ["1", "2"])]},),
        ({"inputs": [binary]}, blob),
    ):
        response = await infer(create_model_of("FP32"), document, *blobs)
        assert response.status_code == 400
        assert response.json() == refusal("x", "BYTES", "FP32")
    for app, name in (
        (create_echo(TensorSpec("x", "string", (-1, 2))), "x"),
        (create_lengths("string"), "string"),
        (create_lengths("string", "base64"), "string"),
        (create_lengths("bytes"), "bytes"),
        (create_images(), "image"),
    ):
        for datatype in ("INT64", "FP64"):
            response = await infer(app, {"inputs": [tensor(name, datatype, [1, 2], [1, 2])]})
            assert response.status_code == 400
            assert response.json() == refusal(name, datatype, "BYTES")


@pytest.mark.parametrize(
    ("kind", "expected"), [("integers", "INT32"), ("floats", "FP32"), ("doubles", "FP64")]
)
async def test_clippers_vectors_have_their_own_type(kind: str, expected: str) -> None:
    app = create(lambda items: [len(item) for item in items], input={"type": kind})
    for sent in NUMBERS:
        data = [True, False] if sent == "BOOL" else [1, 2]
        response = await infer(app, {"inputs": [tensor(kind, sent, [1, 2], data)]})
        if sent == expected:
            assert arrays(response) == {"output": [2]}
        else:
            assert response.json() == refusal(kind, sent, expected)


async def test_each_of_several_inputs_has_its_own_type() -> None:
    specs = [TensorSpec("a", "float32", (-1, 2)), TensorSpec("b", "int64", (-1,))]
    app = create(
        lambda items: {"y": np.ones((len(items), 1), np.float32)},
        inputs=specs,
        input={"type": "tensors"},
        warm_up=False,
    )
    a, b = tensor("a", "FP32", [1, 2], [1, 2]), tensor("b", "INT64", [1], [3])
    assert arrays(await infer(app, {"inputs": [a, b]})) == {"y": [[1]]}
    for inputs, expected in (
        ([a | {"datatype": "FP64"}, b], refusal("a", "FP64", "FP32")),
        ([a, b | {"datatype": "INT32"}], refusal("b", "INT32", "INT64")),
    ):
        response = await infer(app, {"inputs": inputs})
        assert (response.status_code, response.json()) == (400, expected)


async def test_the_inputs_other_name_changes_nothing() -> None:
    response = await infer(
        create_echo(), {"inputs": [tensor("tensor", "FP64", [1, 4], [1, 2, 3, 4])]}
    )
    assert response.json() == refusal("tensor", "FP64", "FP32")


async def test_images_are_bytes_or_pixels_or_the_models_own_array() -> None:
    for app, taken in (
        (create_images(), {"UINT8"}),
        (create_images(scale=0.5), {"UINT8", "FP32"}),
    ):
        for sent in ("UINT8", "FP32", "FP64", "INT64", "INT8"):
            pixels = tensor("image", sent, [1, 8, 12, 3], [1] * 288)
            response = await infer(app, {"inputs": [pixels]})
            if sent in taken:
                assert arrays(response)["mean"] == [0.5 if app_scales(app, sent) else 1]
            else:
                assert response.json() == refusal("image", sent, "BYTES")


def app_scales(app: App, sent: str) -> bool:
    return sent == "UINT8" and app._model.settings.input.scale is not None


async def test_a_model_that_does_not_say_its_type_takes_any() -> None:
    seen: list[str] = []

    def keep(items: Sequence[Any]) -> list[int]:
        seen.extend(item.dtype.name for item in items)
        return [1] * len(items)

    app = create(keep, input={"type": "tensor"})
    for datatype in ("INT64", "FP32", "UINT8"):
        response = await infer(app, {"inputs": [tensor("tensor", datatype, [1, 2], [1, 2])]})
        assert arrays(response) == {"output": [1]}
    assert seen == ["int64", "float32", "uint8"]


async def test_tensorflow_servings_json_has_no_types() -> None:
    """Its numbers become what the signature says, as upstream reads them."""
    app = create_echo(protocols=["open_inference", "tensorflow_serving"])
    response = await call(app, "POST", "/v1/models/m:predict", json={"instances": [[1, 2, 3, 4]]})
    assert response.json()["predictions"][0]["OUTPUT0"] == [1, 2, 3, 4]


SCALARS = [((-1,), [3]), ((-1, 1), [[3]]), ((-1, 1, 1), [[[3]]])]


@pytest.mark.parametrize(("own", "one"), SCALARS)
async def test_a_scalar_may_be_of_shape_one_or_none(own: tuple[int, ...], one: Any) -> None:
    spec = TensorSpec("x", "float32", own)
    named = create(
        lambda items: {"y": np.stack([item["x"] for item in items])},
        inputs=[spec],
        input={"type": "tensors"},
    )
    for app, output in ((create_echo(spec), "OUTPUT0"), (named, "y")):
        for shape in ([], [1], [1, 1]):
            value = np.array([3], "<f4")
            binary = tensor("x", "FP32", shape, parameters={"binary_data_size": 4})
            for document, *blobs in (
                ({"inputs": [tensor("x", "FP32", shape, [3])]},),
                ({"inputs": [tensor("x", "FP32", shape, 3)]},),
                ({"inputs": [binary]}, value.tobytes()),
            ):
                assert arrays(await infer(app, document, *blobs))[output] == one
        for shape in ([2], [2, 1]):
            response = await infer(app, {"inputs": [tensor("x", "FP32", shape, [3, 3])]})
            assert arrays(response)[output] == one * 2
        for shape in ([1, 2], [2, 2], [0]):
            data = [3] * int(np.prod(shape))
            response = await infer(app, {"inputs": [tensor("x", "FP32", shape, data)]})
            assert response.status_code == 400


async def test_a_scalar_of_the_whole_call_may_be_of_shape_one_or_none() -> None:
    specs = [
        TensorSpec("x", "float32", (-1, 2)),
        TensorSpec("keep_prob", "float32", (), has_batch_axis=False),
        TensorSpec("labels", "int64", (3,), has_batch_axis=False),
    ]

    def answer(items: Sequence[Any]) -> dict[str, Any]:
        return {"y": np.stack([item["x"] * item["keep_prob"] for item in items])}

    app = create(answer, inputs=specs, input={"type": "tensors"}, warm_up=False)
    x = tensor("x", "FP32", [2, 2], [1, 2, 3, 4])
    labels = tensor("labels", "INT64", [3], [1, 2, 3])
    for shape in ([], [1]):
        scalar = tensor("keep_prob", "FP32", shape, [0.5])
        response = await infer(app, {"inputs": [x, scalar, labels]})
        assert arrays(response)["y"] == [[0.5, 1], [1.5, 2]]
    other = tensor("keep_prob", "FP64", [], [0.5])
    response = await infer(app, {"inputs": [x, other, labels]})
    assert response.json() == refusal("keep_prob", "FP64", "FP32")
    response = await infer(app, {"inputs": [x, scalar, labels | {"shape": [3, 1]}]})
    assert response.status_code == 400


async def test_one_text_may_be_of_shape_one_or_none() -> None:
    for app, expected in (
        (create_lengths("string"), {"output": [3]}),
        (create_echo(TensorSpec("string", "string", (-1,))), None),
    ):
        for shape in ([], [1], [1, 1]):
            response = await infer(app, {"inputs": [tensor("string", "BYTES", shape, ["abc"])]})
            if expected is not None:
                assert arrays(response) == expected


@pytest.mark.parametrize(
    ("shape", "count"), [([1, 3], 3), ([1, 5], 5), ([2, 2], 4), ([1, 2, 2], 4), ([4, 1], 4)]
)
async def test_another_shape_is_refused(shape: list[int], count: int) -> None:
    values = np.ones(count, "<f4")
    binary = tensor("INPUT0", "FP32", shape, parameters={"binary_data_size": values.nbytes})
    for document, *blobs in (
        ({"inputs": [tensor("INPUT0", "FP32", shape, values.tolist())]},),
        ({"inputs": [binary]}, values.tobytes()),
    ):
        response = await infer(create_echo(), document, *blobs)
        assert response.status_code == 400
        assert "float32 (4)" in response.json()["error"]
