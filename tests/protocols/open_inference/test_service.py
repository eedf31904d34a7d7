"""The Open Inference Protocol v2. Bodies: kserve/open-inference-protocol, and Triton's
extension_*.md, http_server.cc and qa/L0_http."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import struct
import threading
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rayserve_app.app import App, create_app
from rayserve_app.protocols.open_inference import service
from rayserve_app.types import Metadata, Reply, TensorSpec
from tests.protocols import call, create_model
from tests.requests import chunks, create_request

PROTOCOLS = {"protocols": ["open_inference"]}
LENGTH = "inference-header-content-length"
FLOATS = TensorSpec("INPUT0", "float32", (-1, 4))


def create(
    function: Any,
    *,
    inputs: Sequence[TensorSpec] = (),
    outputs: Sequence[TensorSpec] = (),
    **options: Any,
) -> App:
    metadata = Metadata("test", tuple(inputs), tuple(outputs))
    return create_app(create_model(function, metadata=metadata, **(PROTOCOLS | options)))


def create_echo(spec: TensorSpec = FLOATS, **options: Any) -> App:
    """Return the app of a model of one tensor, which answers it as OUTPUT0 and its sum as SUM."""

    def echo(items: Sequence[Any]) -> dict[str, Any]:
        batch = np.stack(items)
        return {"OUTPUT0": batch, "SUM": batch.reshape(len(batch), -1).sum(axis=1)}

    return create(echo, inputs=[spec], **({"input": {"type": "tensor"}} | options))


def create_lengths(kind: str, codec: str = "raw", **options: Any) -> App:
    """Return the app of a model that answers the length of each item."""
    declared = {"type": kind, "codec": codec}
    return create(lambda items: [len(item) for item in items], **({"input": declared} | options))


def tensor(name: str, datatype: str, shape: list[int], data: Any = None, **more: Any) -> Any:
    fields = {"name": name, "shape": shape, "datatype": datatype}
    return fields | ({} if data is None else {"data": data}) | more


async def infer(
    app: App,
    document: Any,
    *blobs: bytes,
    path: str = "/v2/models/m/infer",
    headers: Mapping[str, str] | None = None,
) -> httpx.Response:
    """Send a request: binary data, if there is any, after the JSON."""
    head = document if isinstance(document, bytes) else json.dumps(document).encode()
    own = {LENGTH: str(len(head))} if blobs else {}
    return await call(
        app, "POST", path, content=b"".join((head, *blobs)), headers=own | dict(headers or {})
    )


def arrays(response: httpx.Response) -> dict[str, Any]:
    """Read an answer as the specification says, with numpy alone."""
    assert response.status_code == 200, response.text
    length = int(response.headers.get(LENGTH, len(response.content)))
    document, rest = json.loads(response.content[:length]), response.content[length:]
    found = {}
    for output in document["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            data, blob = output["data"], b""
        else:
            blob, rest = rest[:size], rest[size:]
            data = elements(blob) if output["datatype"] == "BYTES" else None
        if data is None:
            data = np.frombuffer(blob, DTYPES[output["datatype"]])
        found[output["name"]] = np.reshape(data, output["shape"]).tolist()
    assert rest == b""
    return found


def elements(blob: bytes) -> list[bytes]:
    found = []
    while blob:
        (length,) = struct.unpack_from("<I", blob)
        found.append(blob[4 : 4 + length])
        blob = blob[4 + length :]
    return found


def length_prefixed(*values: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


DTYPES = {
    "BOOL": "?",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}

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


def create_images(codec: str = "raw", **options: Any) -> App:
    """Return the app of a model that answers the mean of each image."""
    declared = {"type": "image", "codec": codec, "size": [8, 12]} | options
    return create(
        lambda images: {"mean": np.stack(images).mean(axis=(1, 2, 3), dtype=np.float32)},
        input=declared,
    )


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


ONE = {"name": "INPUT0", "shape": [1, 4], "datatype": "FP32"}
ITS_DATA = {"data": [1, 2, 3, 4]}
BINARY = {"parameters": {"binary_data_size": 16}}


def one(**changes: Any) -> dict[str, Any]:
    return {"inputs": [ONE | ITS_DATA | changes]}


FAULTS: dict[str, tuple[Any, str]] = {
    "no JSON": (b"{", "not JSON"),
    "no object": ([], "expected an object, got an array"),
    "no inputs": ({}, "Unable to parse 'inputs'"),
    "inputs of another kind": ({"inputs": [1]}, "Unable to parse 'inputs'"),
    "empty inputs": ({"inputs": []}, "Wrong input names"),
    "outputs of another kind": (one() | {"outputs": 1}, "Unable to parse 'outputs'"),
    "no output name": (one() | {"outputs": [{}]}, "at `outputs[0].name`"),
    "id": (one() | {"id": 42}, "Unable to parse 'id'"),
    "name": (one(name=1), "at `inputs[0].name`"),
    "datatype": (one(datatype="FP31"), "got 'FP31' - at `inputs[0].datatype`"),
    "no datatype": (one(datatype=[]), "Unknown datatype"),
    "no shape": (one(shape=None), "Unable to parse 'shape'"),
    "negative shape": (one(shape=[2, -5]), "Unable to parse 'shape'"),
    "fractional shape": (one(shape=[1.0, 4]), "Unable to parse 'shape'"),
    "element count overflow": (
        one(shape=[2**2, 2**62 + 1]),
        "causes total element count to exceed maximum size of",
    ),
    "overflow hidden by a zero": (one(shape=[0, 2**63]), "causes total element count to exceed"),
    "byte size overflow": (one(shape=[2**2, 2**60 + 2]), "byte size overflow for input"),
    "long shape": (one(shape=[1] * 33), "'shape' is too long"),
    "too few": (one(data=[1, 2, 3]), "Shape does not match true shape of 'data' field"),
    "too many": (one(data=[[1, 2, 3, 4, 5]]), "Shape does not match true shape of 'data' field"),
    "text for numbers": (one(data=[1, 2, 3, "4"]), "Not a value of FP32: expected float or int"),
    "null": (one(data=[1, 2, 3, None]), "got NoneType"),
    "range of floats": (one(data=[1, 2, 3, 1e300]), "A number is out of the range of FP32"),
    "range of integers": (
        one(datatype="UINT8", data=[1, 2, 3, 256]),
        "An integer is out of the range of UINT8",
    ),
    "negative unsigned": (one(datatype="UINT64", data=[1, 2, 3, -1]), "range of UINT64"),
    "number for BOOL": (one(datatype="BOOL", data=[1, 0, 1, 0]), "Not a value of BOOL"),
    "fraction for integers": (one(datatype="INT32", data=[1, 2, 3, 4.5]), "Not a value of INT32"),
    "wrong kind for the model": (
        one(datatype="BYTES", data=list("abcd")),
        "data-type is 'BYTES', but model 'm' expects 'FP32'",
    ),
    "wrong shape for the model": (
        one(shape=[1, 3], data=[1, 2, 3]),
        "The array does not fit the model",
    ),
    "no items": (one(shape=[0, 4], data=[]), "No items"),
    "no data": ({"inputs": [ONE]}, "no field is set"),
    "data and binary": (one(**BINARY), "both set"),
    "twice": ({"inputs": [ONE | ITS_DATA] * 2}, "input 'INPUT0' already exists in request"),
    "no binary data": ({"inputs": [ONE | BINARY]}, "expecting 16 more bytes"),
    "size of binary data": (
        {"inputs": [ONE | {"parameters": {"binary_data_size": -1}}]},
        "Unable to parse 'binary_data_size'",
    ),
    "shared memory": (
        {"inputs": [ONE | {"parameters": {"shared_memory_region": "a"}}]},
        "the server does not support shared memory",
    ),
    "parameters": (one() | {"parameters": []}, "Unable to parse 'parameters'"),
    "reserved parameter": (
        one() | {"parameters": {"triton_x": 1}},
        "parameter keys starting with 'triton_' are reserved",
    ),
    "parameter of another kind": (
        one() | {"parameters": {"x": [1]}},
        "parameter 'x' has invalid type",
    ),
    "flag": (one() | {"parameters": {"binary_data_output": 1}}, "'binary_data_output'"),
    "output flag": (
        one() | {"outputs": [{"name": "SUM", "parameters": {"binary_data": "yes"}}]},
        "Unable to parse 'binary_data'",
    ),
    "classes": (
        one() | {"outputs": [{"name": "SUM", "parameters": {"classification": -1}}]},
        "Unable to set 'classification'",
    ),
}


@pytest.mark.parametrize(("document", "sentence"), FAULTS.values(), ids=FAULTS)
async def test_a_fault_is_named(document: Any, sentence: str) -> None:
    response = await infer(create_echo(), document)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error"}
    assert sentence in response.json()["error"]


async def test_extensions_that_play_no_part_are_read() -> None:
    parameters = {"sequence_id": 1, "sequence_start": True, "priority": 2, "timeout": 5, "x": 0.5}
    assert arrays(await infer(create_echo(), one() | {"parameters": parameters, "x": []}))


@pytest.mark.parametrize(
    ("blob", "length", "sentence"),
    [
        (b"\0" * 16, None, f"{LENGTH} must say the json's length"),
        (b"\0" * 15, "own", "expecting 1 more bytes"),
        (b"\0" * 17, "own", "unexpected additional input data, 1 bytes"),
        (b"\0" * 16, "9999", "is no length"),
        (b"\0" * 16, "-1", "is no length"),
        (b"\0" * 16, "1" * 5000, "is no length"),
        (b"\0" * 16, "5", "not json"),
    ],
)
async def test_binary_data_must_be_where_the_header_says(
    blob: bytes, length: str | None, sentence: str
) -> None:
    document = {"inputs": [ONE | BINARY]}
    if length == "own":
        response = await infer(create_echo(), document, blob)
    else:
        headers = {} if length is None else {LENGTH: length}
        response = await infer(create_echo(), json.dumps(document).encode() + blob, headers=headers)
    assert response.status_code == 400
    assert sentence in response.json()["error"].lower()


@pytest.mark.parametrize(
    ("shape", "blob"),
    [
        ([2], length_prefixed(b"a")),
        ([1], length_prefixed(b"a", b"b")),
        ([1], b"\5\0\0\0abc"),
        ([1], b"\0\0"),
        ([2**40], b""),
    ],
)
async def test_bytes_must_be_as_many_as_the_shape_says(shape: list[int], blob: bytes) -> None:
    for app in (
        create_lengths("string"),
        create_echo(TensorSpec("string", "string", (-1, 1))),
    ):
        document = tensor("string", "BYTES", shape, parameters={"binary_data_size": len(blob)})
        response = await infer(app, {"inputs": [document]}, blob)
        assert response.status_code in (400, 413)
        assert "at `inputs[0]`" in response.json()["error"] or response.status_code == 413


async def test_elements_are_one_per_item() -> None:
    for shape in ([1, 2], [2, 2]):
        data = ["a"] * int(np.prod(shape))
        response = await infer(
            create_lengths("string"), {"inputs": [tensor("string", "BYTES", shape, data)]}
        )
        assert response.status_code == 400
        assert "expected [N] or [N, 1]" in response.json()["error"]


async def test_too_many_items_are_refused_before_they_are_read() -> None:
    app = create_lengths("string", limits={"max_items": 2})
    response = await infer(app, {"inputs": [tensor("string", "BYTES", [3], ["a", "b", "c"])]})
    assert response.status_code == 413
    assert "at most 2, got 3" in response.json()["error"]


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_bodies_may_be_compressed_both_ways(coding: str) -> None:
    document = {"inputs": [ONE | BINARY], "parameters": {"binary_data_output": True}}
    head, blob = json.dumps(document).encode(), np.arange(4, dtype="<f4").tobytes()
    compress = gzip.compress if coding == "gzip" else zlib.compress
    headers = {LENGTH: str(len(head)), "content-encoding": coding, "accept-encoding": coding}
    response = await infer(create_echo(), compress(head + blob), headers=headers)
    assert response.headers["content-encoding"] == coding
    # httpx has decoded the body; the header counts the JSON before compression.
    assert arrays(response)["OUTPUT0"] == [[0, 1, 2, 3]]


async def test_a_large_answer_is_not_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_COMPRESSED_BYTES", 100)
    response = await infer(create_echo(), one(), headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in response.headers
    assert arrays(response)["SUM"] == [10]


async def test_a_content_coding_that_is_unknown_or_wrong_is_refused() -> None:
    response = await infer(create_echo(), one(), headers={"content-encoding": "br"})
    assert response.status_code == 415
    assert response.headers["accept-encoding"] == "gzip, deflate"
    response = await infer(create_echo(), one(), headers={"content-encoding": "gzip"})
    assert response.status_code == 400
    bomb = gzip.compress(b"\0" * 200_000)
    response = await infer(
        create_echo(limits={"max_body_mb": 0.1}), bomb, headers={"content-encoding": "gzip"}
    )
    assert response.status_code == 413


async def test_what_json_cannot_hold_is_the_callers_to_ask_otherwise() -> None:
    for results, sentence in (
        ([float("nan")], "Binary outputs hold all numbers"),
        ([b"\xff"], "Ask for `binary_data`"),
    ):
        app = create(lambda items, r=results: r, input={"type": "string"})
        request: dict[str, Any] = {"inputs": [tensor("string", "BYTES", [1], ["a"])]}
        response = await infer(app, request)
        assert response.status_code == 400
        assert sentence in response.json()["error"]
        request |= {"parameters": {"binary_data_output": True}}
        (value,) = arrays(await infer(app, request))["output"]
        assert value == b"\xff" or np.isnan(value)


async def test_a_result_without_a_datatype_is_the_models_fault() -> None:
    app = create(lambda items: {"y": np.ones(1, complex)}, input={"type": "string"})
    response = await infer(app, {"inputs": [tensor("string", "BYTES", [1], ["a"])]})
    assert response.status_code == 500
    assert "no datatype of the protocol: got complex128" in response.json()["error"]


async def test_results_of_several_batches_are_one_tensor() -> None:
    app = create_echo(batching={"max_batch_size": 3})
    numbers = np.arange(40, dtype="<f4").reshape(10, 4)
    document = tensor("INPUT0", "FP32", [10, 4], parameters={"binary_data_size": numbers.nbytes})
    for binary in (True, False):
        request = {"inputs": [document], "parameters": {"binary_data_output": binary}}
        found = arrays(await infer(app, request, numbers.tobytes()))
        assert found["OUTPUT0"] == numbers.tolist()
        assert found["SUM"] == numbers.sum(axis=1).tolist()


async def test_a_batchs_array_is_sent_as_it_is() -> None:
    """No copy: what a large answer sends is the model's own memory."""
    model = create_model(
        lambda items: {"y": big[: len(items)]},
        input={"type": "string"},
        protocols=["open_inference"],
    )
    big = np.ones((2, 300_000), np.float32)
    protocol = service.OpenInference(model)
    document = {
        "inputs": [tensor("string", "BYTES", [2], ["a", "b"])],
        "parameters": {"binary_data_output": True},
    }
    request = create_request(chunks(json.dumps(document).encode()))
    response = await protocol.infer(request)
    assert np.shares_memory(np.frombuffer(response.buffers[1], np.uint8), big)


async def test_a_model_that_fails_says_on_which_item() -> None:
    app = create(lambda items: [1 / int(item) for item in items], input={"type": "string"})
    response = await infer(app, {"inputs": [tensor("string", "BYTES", [2], ["1", "0"])]})
    assert response.status_code == 500
    assert response.json() == {
        "error": "The model failed: ZeroDivisionError: division by zero - at `[1]`"
    }


async def test_a_request_that_is_too_late_is_unavailable() -> None:
    gate = threading.Event()
    app = create(lambda items: gate.wait(20), input={"type": "string"}, deadline={"latency_ms": 20})
    response = await infer(app, {"inputs": [tensor("string", "BYTES", [1], ["a"])]})
    assert response.status_code == 503
    assert "within its deadline" in response.json()["error"]
    gate.set()


async def test_a_full_queue_is_unavailable() -> None:
    """qa/L0_http: 503."""
    gate = threading.Event()
    app = create(
        lambda items: [gate.wait(20)],
        input={"type": "string"},
        limits={"max_queued_items": 1, "max_items": 1},
        batching={"max_batch_size": 1},
    )
    request: dict[str, Any] = {"inputs": [tensor("string", "BYTES", [1], ["a"])]}
    first = asyncio.create_task(infer(app, request))
    await asyncio.sleep(0.05)
    response = await infer(app, request)
    gate.set()
    assert response.status_code == 503
    assert "full" in response.json()["error"]
    assert int(response.headers["retry-after"]) > 0
    assert arrays(await first) == {"output": [True]}


async def get(app: App, path: str) -> httpx.Response:
    return await call(app, "GET", path)


async def post(app: App, path: str, document: Any = None) -> httpx.Response:
    content = b"" if document is None else json.dumps(document).encode()
    return await call(app, "POST", path, content=content)


async def test_the_server_describes_itself() -> None:
    response = await get(create_echo(), "/v2")
    assert response.status_code == 200
    assert set(response.json()) == {"name", "version", "extensions"}
    assert "binary_tensor_data" in response.json()["extensions"]


async def test_health_says_both_whatever_it_is_asked() -> None:
    """KServe's client reads `live` or `ready`, Triton's the status alone."""
    warm, cold = create_echo(), create_echo(is_warm=False)
    for path in ("live", "ready"):
        response = await get(warm, f"/v2/health/{path}")
        assert (response.status_code, response.json()) == (200, {"live": True, "ready": True})
    response = await get(cold, "/v2/health/live")
    assert (response.status_code, response.json()) == (200, {"live": True, "ready": False})
    response = await get(cold, "/v2/health/ready")
    assert (response.status_code, response.json()) == (400, {"live": True, "ready": False})
    response = await get(cold, "/v2/models/m/ready")
    assert (response.status_code, response.json()) == (400, {"name": "m", "ready": False})
    response = await get(warm, "/v2/models/m/versions/1/ready")
    assert (response.status_code, response.json()) == (200, {"name": "m", "ready": True})
    assert (await infer(cold, one())).status_code == 503


@pytest.mark.parametrize(
    ("declared", "inputs"),
    [
        ({"type": "image"}, [("image", "BYTES", [-1, 1])]),
        ({"type": "bytes", "codec": "packed_jpeg"}, [("bytes", "BYTES", [-1, 1])]),
        ({"type": "string", "codec": "base64"}, [("string", "BYTES", [-1, 1])]),
        ({"type": "request"}, [("request", "BYTES", [-1, 1])]),
        ({"type": "integers"}, [("integers", "INT32", [-1, -1])]),
        ({"type": "doubles"}, [("doubles", "FP64", [-1, -1])]),
        ({"type": "tensor"}, [("tensor", "FP32", [-1])]),
        (
            {"type": "tensor", "shape": [2, -1], "dtype": "uint8"},
            [("tensor", "UINT8", [-1, 2, -1])],
        ),
    ],
)
async def test_metadata_of_models_that_say_nothing_themselves(
    declared: dict[str, Any], inputs: list[tuple[str, str, list[int]]]
) -> None:
    app = create(lambda items: [0] * len(items), input=declared)
    document = (await get(app, "/v2/models/m")).json()
    assert document == {
        "name": "m",
        "versions": ["1"],
        "platform": "test",
        "inputs": [{"name": n, "datatype": d, "shape": s} for n, d, s in inputs],
        "outputs": [{"name": "output", "datatype": "BYTES", "shape": [-1]}],
    }


NAMED = (
    TensorSpec("x", "float32", (-1, 2, -1)),
    TensorSpec("n", "string", (-1,)),
)


async def test_metadata_and_configuration_of_tensors() -> None:
    outputs = [TensorSpec("y", "bool", (-1, 7)), TensorSpec("z", "int64", ())]
    app = create(
        lambda items: [],
        inputs=NAMED,
        outputs=outputs,
        input={"type": "tensors"},
        batching={"max_batch_size": 4, "batch_wait_timeout_s": 0.002},
        warm_up=False,
    )
    document = (await get(app, "/v2/models/m/versions/1")).json()
    assert document["inputs"] == [
        {"name": "x", "datatype": "FP32", "shape": [-1, 2, -1]},
        {"name": "n", "datatype": "BYTES", "shape": [-1]},
    ]
    assert document["outputs"] == [
        {"name": "y", "datatype": "BOOL", "shape": [-1, 7]},
        {"name": "z", "datatype": "INT64", "shape": [-1]},
    ]
    assert (await get(app, "/v2/models/m/config")).json() == {
        "name": "m",
        "platform": "test",
        "backend": "test",
        "version_policy": {"all": {}},
        "max_batch_size": 4,
        "input": [
            {"name": "x", "data_type": "TYPE_FP32", "dims": [2, -1]},
            {"name": "n", "data_type": "TYPE_STRING", "dims": [1]},
        ],
        "output": [
            {"name": "y", "data_type": "TYPE_BOOL", "dims": [7]},
            {"name": "z", "data_type": "TYPE_INT64", "dims": [-1]},
        ],
        "dynamic_batching": {"max_queue_delay_microseconds": 2000},
    }


@pytest.mark.parametrize("path", ["", "/ready", "/config", "/stats", "/infer"])
async def test_an_unknown_model_or_version_is_named(path: str) -> None:
    app = create_echo()
    method = "POST" if path == "/infer" else "GET"
    response = await call(app, method, f"/v2/models/x{path}", content=json.dumps(one()).encode())
    assert response.status_code == 404
    assert response.json() == {"error": "Request for unknown model: 'x' is not found. Models: m"}
    response = await call(app, method, f"/v2/models/m/versions/3{path}")
    if path == "/ready":
        assert (response.status_code, response.json()["ready"]) == (400, False)
    else:
        assert response.status_code == 404
        sentence = "Request for unknown model: 'm' version 3 is not found: expected '1'"
        assert response.json()["error"].startswith(sentence)


async def test_the_repository_holds_the_model() -> None:
    app = create_echo()
    entry = {"name": "m", "version": "1", "state": "READY", "reason": ""}
    for document in (None, {}, {"ready": True}, {"ready": False}):
        response = await post(app, "/v2/repository/index", document)
        assert (response.status_code, response.json()) == (200, [entry])
    cold = create_echo(is_warm=False)
    (found,) = (await post(cold, "/v2/repository/index")).json()
    assert (found["state"], found["reason"]) == ("LOADING", "Model 'm' is warming up")
    assert (await post(cold, "/v2/repository/index", {"ready": True})).json() == []
    response = await post(app, "/v2/repository/index", {"ready": 1})
    assert response.status_code == 400
    assert (await post(app, "/v2/repository/index", [])).status_code == 400


async def test_a_model_of_an_application_is_not_unloaded() -> None:
    app = create_echo()
    response = await post(app, "/v2/repository/models/m/unload")
    assert response.status_code == 400
    assert "explicit model load / unload is not allowed" in response.json()["error"]
    assert "model_control" in response.json()["error"]
    documents: list[Any] = [None, {}, {"parameters": {}}]
    for document in documents:
        response = await post(app, "/v2/repository/models/m/load", document)
        assert (response.status_code, response.content) == (200, b"")
    assert (await infer(app, one())).status_code == 200
    response = await post(app, "/v2/repository/models/m/load", {"parameters": {"config": "{}"}})
    assert response.status_code == 400
    assert "got config" in response.json()["error"]
    for action in ("load", "unload"):
        assert (await post(app, f"/v2/repository/models/x/{action}")).status_code == 404


async def test_with_explicit_control_a_model_is_unloaded_and_loaded_again() -> None:
    app = create_echo(protocol_settings={"open_inference": {"model_control": "explicit"}})
    body = {"parameters": {"unload_dependents": False}}
    assert (await post(app, "/v2/repository/models/m/unload", body)).status_code == 200
    gone = {"error": "Request for unknown model: 'm' has no available versions"}
    response = await infer(app, one())
    assert (response.status_code, response.json()) == (404, gone)
    for path in ("", "/config", "/stats"):
        response = await get(app, f"/v2/models/m{path}")
        assert (response.status_code, response.json()) == (404, gone)
    response = await infer(app, one(), path="/v2/models/m/versions/1/infer")
    assert response.status_code == 503
    assert response.json()["error"] == (
        "Request for unknown model: 'm' version 1 is not at ready state"
    )
    assert (await get(app, "/v2/models/m/ready")).status_code == 400
    assert (await get(app, "/v2/health/ready")).status_code == 200
    assert (await get(app, "/v2/models/stats")).json() == {"model_stats": []}
    assert (await post(app, "/v2/repository/index")).json() == [
        {"name": "m", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
    ]
    assert (await post(app, "/v2/repository/models/m/load")).status_code == 200
    assert (await get(app, "/v2/models/m/ready")).status_code == 200
    assert (await infer(app, one())).status_code == 200


async def test_statistics_count_requests_and_their_time() -> None:
    app = create_echo(batching={"max_batch_size": 2})
    for count in (1, 2):
        await infer(app, {"inputs": [tensor("INPUT0", "FP32", [count, 4], [0] * 4 * count)]})
    await infer(app, one(data=[]))
    (found,) = (await get(app, "/v2/models/m/stats")).json()["model_stats"]
    assert (found["name"], found["version"], found["inference_count"]) == ("m", "1", 3)
    assert found["last_inference"] > 1_700_000_000_000
    stats = found["inference_stats"]
    assert {name: each["count"] for name, each in stats.items()} == {
        "success": 2,
        "fail": 1,
        "queue": 2,
        "compute_input": 2,
        "compute_infer": 2,
        "compute_output": 2,
        "cache_hit": 0,
        "cache_miss": 0,
    }
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    assert 0 < stats["compute_infer"]["ns"] < stats["success"]["ns"]
    assert sum(stats[part]["ns"] for part in parts) <= stats["success"]["ns"]
    for path in ("/v2/models/stats", "/v2/models/m/versions/1/stats"):
        assert (await get(app, path)).json() == {"model_stats": [found]}


async def test_statistics_tell_executions_by_their_size() -> None:
    app = create_echo(batching={"max_batch_size": 2})
    for count in (1, 4):
        await infer(app, {"inputs": [tensor("INPUT0", "FP32", [count, 4], [0] * 4 * count)]})
    (found,) = (await get(app, "/v2/models/m/stats")).json()["model_stats"]
    sizes = [(each["batch_size"], each["compute_infer"]["count"]) for each in found["batch_stats"]]
    assert sizes == [(1, 1), (2, 2)]
    assert found["execution_count"] == 3
    assert all(each["compute_infer"]["ns"] > 0 for each in found["batch_stats"])


@pytest.mark.parametrize(
    ("method", "path", "sentence"),
    [
        ("GET", "/v2/trace/setting", "tracing"),
        ("POST", "/v2/models/m/trace/setting", "tracing"),
        ("GET", "/v2/logging", "dynamic logging"),
        ("GET", "/v2/systemsharedmemory/status", "shared memory"),
        ("POST", "/v2/cudasharedmemory/region/a/register", "shared memory"),
        ("POST", "/v2/systemsharedmemory/unregister", "shared memory"),
    ],
)
async def test_what_is_left_out_says_so(method: str, path: str, sentence: str) -> None:
    response = await call(create_echo(), method, path)
    assert response.status_code == 400
    assert response.json() == {"error": f"the server does not support {sentence}"}


async def test_a_wrong_verb_is_405() -> None:
    assert (await get(create_echo(), "/v2/models/m/infer")).status_code == 405


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
SHAPES = JSON | st.lists(st.integers(-1, 5) | st.just(2**62), max_size=3)
INPUTS = st.fixed_dictionaries(
    {
        "name": JSON | st.sampled_from(["x", "n", "image", "string", "request", "tensor"]),
        "datatype": JSON | st.sampled_from([*DTYPES, "BYTES", "BF16"]),
        "shape": SHAPES,
    },
    optional={
        "data": JSON,
        "parameters": JSON | st.fixed_dictionaries({"binary_data_size": st.integers(-1, 40)}),
    },
)
OUTPUTS = st.fixed_dictionaries(
    {"name": JSON | st.sampled_from(["output", "y"])},
    optional={
        "parameters": JSON
        | st.dictionaries(st.sampled_from(["classification", "binary_data"]), JSON)
    },
)
DOCUMENTS = JSON | st.fixed_dictionaries(
    {"inputs": JSON | st.lists(INPUTS, max_size=2)},
    optional={
        "id": JSON,
        "outputs": JSON | st.lists(OUTPUTS, max_size=2),
        "parameters": JSON | st.dictionaries(st.just("binary_data_output"), st.booleans()),
    },
)
LENGTHS = (
    st.none()
    | st.just("own")
    | st.integers(-1, 60).map(str)
    | st.text(st.characters(max_codepoint=255, exclude_categories=["C"]), max_size=4)
)


@pytest.mark.parametrize(
    ("kind", "codec", "specs"),
    [
        ("string", "raw", ()),
        ("bytes", "json_metadata", ()),
        ("image", "packed_jpeg", ()),
        ("floats", "raw", ()),
        ("request", "raw", ()),
        ("tensor", "raw", (TensorSpec("x", "float32", (-1, 2)),)),
        ("tensor", "raw", ()),
        ("tensors", "raw", NAMED),
    ],
)
def test_no_request_leads_to_an_error_of_ours(
    kind: str, codec: str, specs: tuple[TensorSpec, ...]
) -> None:
    app = create(
        lambda items: {"y": np.ones((len(items), 2))},
        inputs=specs,
        input={"type": kind, "codec": codec},
        warm_up=False,
    )
    with asyncio.Runner() as runner:

        @settings(derandomize=True, deadline=None, max_examples=150, database=None)
        @given(
            DOCUMENTS.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40),
            st.binary(max_size=40),
            LENGTHS,
            st.sampled_from([None, "gzip", "deflate", "identity", "x"]),
        )
        def check(head: bytes, blob: bytes, length: str | None, coding: str | None) -> None:
            headers = {}
            if length is not None:
                value = str(len(head)) if length == "own" else length
                headers[LENGTH] = value.encode("latin-1")
            if coding is not None:
                headers["content-encoding"] = coding.encode()
            response = runner.run(infer(app, head + blob, headers=headers))  # type: ignore[arg-type]
            assert response.status_code in (200, 400, 413, 415)
            if response.status_code != 200:
                assert set(response.json()) == {"error"}

        check()
