"""What is wrong with a request, and what cannot be answered."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayserve_app.protocols.open_inference import service
from rayserve_app.types import TensorSpec
from tests.protocols import create_model
from tests.protocols.open_inference.messages import (
    DTYPES,
    ITS_DATA,
    LENGTH,
    NAMED,
    ONE,
    arrays,
    create,
    create_echo,
    create_lengths,
    infer,
    length_prefixed,
    one,
    tensor,
)
from tests.requests import chunks, create_request

BINARY = {"parameters": {"binary_data_size": 16}}
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
