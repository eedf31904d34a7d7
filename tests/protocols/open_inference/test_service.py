"""The Open Inference Protocol v2. Bodies: kserve/open-inference-protocol, and Triton's
extension_*.md, http_server.cc and qa/L0_http."""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rayserve_app.types import Reply, TensorSpec
from tests.protocols.open_inference.messages import (
    DTYPES,
    FLOATS,
    LENGTH,
    arrays,
    create,
    create_echo,
    create_images,
    create_lengths,
    infer,
    length_prefixed,
    tensor,
)

EXAMPLE = {
    "id": "42",
    "inputs": [
        {"name": "input0", "shape": [2, 2], "datatype": "UINT32", "data": [1, 2, 3, 4]},
        {"name": "input1", "shape": [3], "datatype": "BOOL", "data": [True, False, True]},
    ],
    "outputs": [{"name": "output0"}],
}
"""The specification's "Inference Request Examples"; its `input1` has another batch size, which no
model that batches takes."""


async def test_the_specifications_example() -> None:
    specs = [TensorSpec("input0", "uint32", (-1, 2)), TensorSpec("input1", "bool", (-1,))]

    def double(items: Sequence[Any]) -> dict[str, Any]:
        return {"output0": np.stack([item["input0"] for item in items]).astype(np.float32) * 2}

    app = create(double, inputs=specs, input={"type": "tensors"})
    two = EXAMPLE | {"inputs": [EXAMPLE["inputs"][0], tensor("input1", "BOOL", [2], [True, False])]}
    response = await infer(app, two)
    assert response.headers["content-type"] == "application/json"
    assert response.content == (
        b'{"id":"42","model_name":"m","model_version":"1","outputs":[{"name":"output0",'
        b'"datatype":"FP32","shape":[2,2],"data":[2.0,4.0,6.0,8.0]}]}'
    )
    response = await infer(app, EXAMPLE)
    assert response.status_code == 400
    assert "Inputs of unlike length" in response.json()["error"]


async def test_the_binary_extensions_example() -> None:
    """Inputs of 16 and 3 bytes and an output of 24 (extension_binary_data.md)."""
    specs = [TensorSpec("input0", "uint32", (-1, 2)), TensorSpec("input1", "bool", (-1, 1))]

    def answer(items: Sequence[Any]) -> dict[str, Any]:
        return {"output0": np.stack([item["input0"] * 0.5 for item in items], dtype=np.float32)}

    app = create(answer, inputs=specs, input={"type": "tensors"})
    document = {
        "model_name": "mymodel",
        "inputs": [
            tensor("input0", "UINT32", [3, 2], parameters={"binary_data_size": 24}),
            tensor("input1", "BOOL", [3, 1], parameters={"binary_data_size": 3}),
        ],
        "outputs": [{"name": "output0", "parameters": {"binary_data": True}}],
    }
    numbers = np.arange(6, dtype="<u4")
    response = await infer(app, document, numbers.tobytes(), b"\1\0\1")
    head = (
        b'{"model_name":"m","model_version":"1","outputs":[{"name":"output0","datatype":"FP32",'
        b'"shape":[3,2],"parameters":{"binary_data_size":24}}]}'
    )
    assert response.content == head + (numbers * 0.5).astype("<f4").tobytes()
    assert response.headers[LENGTH] == str(len(head))
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["content-length"] == str(len(head) + 24)


@pytest.mark.parametrize("datatype", DTYPES)
async def test_every_datatype_travels_in_binary_and_json(datatype: str) -> None:
    dtype = np.dtype(DTYPES[datatype])
    app = create(
        lambda items: {"OUTPUT0": np.stack(items)},
        inputs=[TensorSpec("x", dtype.name, (-1, 3))],
        input={"type": "tensor"},
    )
    values = np.array([[0, 1, 1], [1, 0, 100]]).astype(dtype)
    binary = tensor("x", datatype, [2, 3], parameters={"binary_data_size": values.nbytes})
    request = {"inputs": [binary], "parameters": {"binary_data_output": True}}
    response = await infer(app, request, values.tobytes())
    document = json.loads(response.content[: int(response.headers[LENGTH])])
    assert document["outputs"][0]["datatype"] == datatype
    assert arrays(response)["OUTPUT0"] == values.tolist()
    in_json = {"inputs": [tensor("x", datatype, [2, 3], values.ravel().tolist())]}
    response = await infer(app, in_json)
    if datatype == "FP16":
        assert response.status_code == 400
        assert "FP16 data via JSON is not supported" in response.json()["error"]
        response = await infer(app, {"inputs": [binary]}, values.tobytes())
        assert response.status_code == 400
        assert "sending FP16 data via JSON is not supported" in response.json()["error"]
    else:
        assert arrays(response)["OUTPUT0"] == values.tolist()


async def test_data_may_be_flat_or_nested() -> None:
    app = create_echo()
    for data in (
        [1, 2, 3, 4, 5, 6, 7, 8.5],
        [[1, 2, 3, 4], [5, 6, 7, 8.5]],
        [[[1, 2], [3, 4]], [[5, 6], [7, 8.5]]],
    ):
        response = await infer(app, {"inputs": [tensor("INPUT0", "FP32", [2, 4], data)]})
        assert arrays(response) == {
            "OUTPUT0": [[1, 2, 3, 4], [5, 6, 7, 8.5]],
            "SUM": [10, 26.5],
        }


async def test_the_inputs_name_may_be_the_models_or_its_types() -> None:
    for name, status in (("INPUT0", 200), ("tensor", 200), ("x", 400)):
        response = await infer(
            create_echo(), {"inputs": [tensor(name, "FP32", [1, 4], [1, 2, 3, 4])]}
        )
        assert response.status_code == status
    assert "expected ['INPUT0', 'tensor'], got ['x']" in response.json()["error"]


async def test_bytes_nested_or_flat_are_the_same_items() -> None:
    """Triton's issue 4405."""
    app = create_lengths("string")
    for shape, data in (([2], ["a", "bcd"]), ([2, 1], [["a"], ["bcd"]]), ([2, 1], ["a", "bcd"])):
        response = await infer(app, {"inputs": [tensor("string", "BYTES", shape, data)]})
        assert arrays(response) == {"output": [1, 3]}
    blob = length_prefixed(b"a", "größe".encode())
    binary = tensor("string", "BYTES", [2, 1], parameters={"binary_data_size": len(blob)})
    assert arrays(await infer(app, {"inputs": [binary]}, blob)) == {"output": [1, 5]}


def jpeg(shade: int = 90, size: tuple[int, int] = (12, 8)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (shade, shade, shade)).save(file, "JPEG")
    return file.getvalue()


async def test_images_come_as_bytes_in_every_way_and_as_pixels() -> None:
    app, (first, second) = create_images(), (jpeg(90), jpeg(200))
    blob = length_prefixed(first, second)
    pixels = np.stack([np.full((8, 12, 3), shade, np.uint8) for shade in (90, 200)])
    in_base64 = [base64.b64encode(data).decode() for data in (first, second)]
    binary = {"parameters": {"binary_data_size": len(blob)}}
    sizes = {"parameters": {"binary_data_size": pixels.nbytes}}
    for document, *blobs in (
        (tensor("image", "BYTES", [2, 1], **binary), blob),
        (tensor("image", "BYTES", [2], **binary), blob),
        (tensor("image", "BYTES", [2], in_base64),),
        (tensor("image", "UINT8", [2, 8, 12, 3], **sizes), pixels.tobytes()),
        (tensor("image", "UINT8", [2, 8, 12, 3], pixels.tolist()),),
    ):
        found = arrays(await infer(app, {"inputs": [document]}, *blobs))
        np.testing.assert_allclose(found["mean"], [90, 200], atol=1)


async def test_floats_are_the_models_own_pixels() -> None:
    app = create_images(scale=0.5)
    own = np.full((1, 8, 12, 3), 0.25, np.float32)
    sizes = {"parameters": {"binary_data_size": own.nbytes}}
    response = await infer(
        app, {"inputs": [tensor("image", "FP32", [1, 8, 12, 3], **sizes)]}, own.tobytes()
    )
    assert arrays(response) == {"mean": [0.25]}


async def test_a_packed_stream_is_one_element_of_many_items() -> None:
    stream = b"".join(struct.pack(">I", len(data)) + data for data in (jpeg(10), jpeg(100)))
    blob = length_prefixed(stream)
    document = {
        "inputs": [tensor("image", "BYTES", [1], parameters={"binary_data_size": len(blob)})]
    }
    found = arrays(await infer(create_images("packed_jpeg"), document, blob))
    np.testing.assert_allclose(found["mean"], [10, 100], atol=1)


async def test_strings_of_a_tensor_model_are_bytes() -> None:
    seen: list[Any] = []

    def keep(items: Sequence[Any]) -> list[int]:
        seen.extend(item.tolist() for item in items)
        return [1] * len(items)

    spec = TensorSpec("s", "string", (-1, 2))
    app = create(keep, inputs=[spec], input={"type": "tensor"})
    blob = length_prefixed(b"a\0", b"", b"b", b"\xff")
    binary = tensor("s", "BYTES", [2, 2], parameters={"binary_data_size": len(blob)})
    await infer(app, {"inputs": [binary]}, blob)
    await infer(app, {"inputs": [tensor("s", "BYTES", [1, 2], ["ä", "b"])]})
    assert seen == [[b"a\0", b""], [b"b", b"\xff"], ["ä".encode(), b"b"]]


async def test_bf16_is_read_as_float32() -> None:
    halves = (np.array([1.5, -2, 0, 3], np.float32).view(np.uint32) >> 16).astype("<u2")
    document = {"inputs": [tensor("INPUT0", "BF16", [1, 4], parameters={"binary_data_size": 8})]}
    response = await infer(create_echo(), document, halves.tobytes())
    assert arrays(response)["OUTPUT0"] == [[1.5, -2, 0, 3]]


@pytest.mark.parametrize(
    ("results", "datatype", "data"),
    [
        ([1.5, 2], "FP64", [1.5, 2]),
        ([1, 2], "INT64", [1, 2]),
        ([True, False], "BOOL", [True, False]),
        (["a", "ß"], "BYTES", ["a", "ß"]),
        ([b"a", b"bc"], "BYTES", ["a", "bc"]),
        ([{"label": "cat"}, None], "BYTES", ['{"label":"cat"}', "null"]),
        ([[1, 2], "a"], "BYTES", ["[1,2]", "a"]),
        ([[1], [1, 2]], "BYTES", ["[1]", "[1,2]"]),
        ([Reply("[1]"), Reply("x")], "BYTES", ["[1]", "x"]),
        (np.array(["a", "b"]), "BYTES", ["a", "b"]),
    ],
)
async def test_objects_are_one_output(results: Any, datatype: str, data: list[Any]) -> None:
    app = create(lambda items: results, input={"type": "string"})
    request: dict[str, Any] = {"inputs": [tensor("string", "BYTES", [2], ["a", "b"])]}
    (output,) = (await infer(app, request)).json()["outputs"]
    assert output == {"name": "output", "datatype": datatype, "shape": [2], "data": data}
    request |= {"parameters": {"binary_data_output": True}}
    expected = [each.encode() for each in data] if datatype == "BYTES" else data
    assert arrays(await infer(app, request)) == {"output": expected}


async def test_a_whole_request_is_an_element() -> None:
    seen: list[Any] = []

    def reply(items: Sequence[Any]) -> list[Any]:
        seen.extend((bytes(item.body), item.content_type) for item in items)
        return [Reply(b"{}")] * len(items)

    app = create(reply, input={"type": "request"})
    blob = length_prefixed(b"\xff\0", b"")
    binary = tensor("request", "BYTES", [2], parameters={"binary_data_size": len(blob)})
    assert arrays(await infer(app, {"inputs": [binary]}, blob)) == {"output": ["{}", "{}"]}
    response = await infer(app, b"", headers={LENGTH: "0"}, path="/v2/models/m/infer")
    assert response.status_code == 200
    assert seen == [(data, "application/octet-stream") for data in (b"\xff\0", b"", b"")]
    response = await infer(app, {"inputs": [tensor("request", "FP32", [1], [1])]})
    assert response.status_code == 400
    assert "The model takes whole requests" in response.json()["error"]


async def test_only_the_requested_outputs_are_answered_in_their_order() -> None:
    app = create_echo()
    request = {
        "inputs": [tensor("INPUT0", "FP32", [1, 4], [1, 2, 3, 4])],
        "outputs": [
            {"name": "SUM", "parameters": {"binary_data": False}},
            {"name": "OUTPUT0", "parameters": {"binary_data": True}},
        ],
        "parameters": {"binary_data_output": True},
    }
    response = await infer(app, request)
    length = int(response.headers[LENGTH])
    assert json.loads(response.content[:length])["outputs"] == [
        {"name": "SUM", "datatype": "FP32", "shape": [1], "data": [10.0]},
        {
            "name": "OUTPUT0",
            "datatype": "FP32",
            "shape": [1, 4],
            "parameters": {"binary_data_size": 16},
        },
    ]
    assert response.content[length:] == np.array([1, 2, 3, 4], "<f4").tobytes()


@pytest.mark.parametrize("outputs", [(), (TensorSpec("OUTPUT0", "float32", (-1, 4)),)])
async def test_an_unknown_output_is_refused(outputs: Sequence[TensorSpec]) -> None:
    app = create(
        lambda items: {"OUTPUT0": np.stack(items)},
        inputs=[FLOATS],
        outputs=outputs,
        input={"type": "tensor"},
    )
    request = {
        "inputs": [tensor("INPUT0", "FP32", [1, 4], [1, 2, 3, 4])],
        "outputs": [{"name": "DUMMY"}],
    }
    response = await infer(app, request)
    assert response.status_code == 400
    assert response.json() == {
        "error": "unexpected inference output 'DUMMY' for model 'm': expected one of OUTPUT0"
    }


async def test_the_classification_extensions_example() -> None:
    """Of [1, 5, 10, 4] the best two are 10 at 2 and 5 at 1 (extension_classification.md); floats
    have six decimals (classification.cc, std::to_string)."""
    spec = TensorSpec("x", "", ())
    for datatype, data, best in (
        ("INT32", [[1, 5, 10, 4], [7, 7, 0, -1]], ["10:2", "5:1", "7:0", "7:1"]),
        ("UINT8", [[1, 5, 10, 4], [7, 7, 0, 1]], ["10:2", "5:1", "7:0", "7:1"]),
        (
            "FP32",
            [[1.1, 3.3, 0.5, 2.4], [0, -1, 0, -2]],
            ["3.300000:1", "2.400000:3", "0.000000:0", "0.000000:2"],
        ),
    ):
        app = create_echo(spec._replace(dtype=np.dtype(DTYPES[datatype]).name, shape=(-1, 4)))
        for count, shape in ((2, [2, 2]), (9, [2, 4])):
            request: dict[str, Any] = {
                "inputs": [tensor("x", datatype, [2, 4], data)],
                "outputs": [{"name": "OUTPUT0", "parameters": {"classification": count}}],
            }
            (output,) = (await infer(app, request)).json()["outputs"]
            assert (output["datatype"], output["shape"]) == ("BYTES", shape)
            assert (output["data"] == best) == (count == 2)
            binary = {"classification": count, "binary_data": True}
            request["outputs"][0]["parameters"] = binary
            found = np.ravel(arrays(await infer(app, request))["OUTPUT0"])
            assert [each.decode() for each in found.tolist()] == output["data"]


async def test_text_cannot_be_classified() -> None:
    app = create(lambda items: list(items), input={"type": "string"})
    request = {
        "inputs": [tensor("string", "BYTES", [1], ["a"])],
        "outputs": [{"name": "output", "parameters": {"classification": 1}}],
    }
    response = await infer(app, request)
    assert response.status_code == 400
    assert "unsupported type 'BYTES'" in response.json()["error"]


@pytest.mark.parametrize("count", [8, 32])
async def test_a_raw_body_is_the_only_inputs_data(count: int) -> None:
    """qa/L0_http, test_raw_binary: 8 and 32 elements."""
    app = create_echo(TensorSpec("INPUT0", "float32", (-1, -1)))
    numbers = np.arange(count, dtype="<f4")
    response = await infer(app, numbers.tobytes(), headers={LENGTH: "0"})
    assert arrays(response) == {"OUTPUT0": [numbers.tolist()], "SUM": [numbers.sum()]}
    assert response.headers["content-type"] == "application/octet-stream"


async def test_a_raw_body_may_be_one_element_of_bytes() -> None:
    response = await infer(create_images(), jpeg(90), headers={LENGTH: "0"})
    np.testing.assert_allclose(arrays(response)["mean"], [90], atol=1)
    response = await infer(create_lengths("string"), b"abc", headers={LENGTH: "0"})
    assert arrays(response) == {"output": [3]}
    spec = TensorSpec("s", "string", (-1, 1))
    app = create(lambda items: list(items), inputs=[spec], input={"type": "tensor"})
    assert arrays(await infer(app, b"abc", headers={LENGTH: "0"})) == {"output": [[b"abc"]]}


@pytest.mark.parametrize(
    ("specs", "body", "sentence"),
    [
        (
            [TensorSpec("INPUT0", "float32", (-1, -1, -1))],
            b"\0" * 4,
            "The shape of the raw input 'INPUT0' can not be deduced because there are more than "
            "one variable-sized dimension",
        ),
        (
            [TensorSpec(name, "float32", (-1, 2)) for name in "abc"],
            b"\0" * 24,
            "Raw request must only have 1 input (found 1) to be deduced but got 3 inputs in 'm'",
        ),
        (
            [TensorSpec("INPUT0", "string", (-1, 2))],
            b"a",
            "For BYTE datatype raw input 'INPUT0', the model must have input shape [1]",
        ),
        ([FLOATS], b"\0" * 15, "expected 16 bytes for [4], got 15"),
        ([TensorSpec("INPUT0", "float32", (-1, 2, -1))], b"\0" * 12, "a multiple of 8 bytes"),
    ],
)
async def test_a_raw_body_that_says_too_little_is_refused(
    specs: list[TensorSpec], body: bytes, sentence: str
) -> None:
    kind = "tensor" if len(specs) == 1 else "tensors"
    app = create(lambda items: [0] * len(items), inputs=specs, input={"type": kind})
    response = await infer(app, body, headers={LENGTH: "0"})
    assert response.status_code == 400
    assert sentence in response.json()["error"]
