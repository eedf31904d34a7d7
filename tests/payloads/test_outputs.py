"""From results to bodies: the form that `Accept` asks for."""

from __future__ import annotations

import io
import json
from time import process_time
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from rayserve_app.errors import NotAcceptable, PredictError
from rayserve_app.payloads.outputs import encode, json_value, named_arrays, negotiate
from rayserve_app.types import Outputs, Reply, Row


def rows(outputs: Outputs, *positions: int) -> list[Row]:
    return [Row(outputs, position) for position in positions]


def joined(buffers: Any) -> bytes:
    return b"".join(bytes(buffer) for buffer in buffers)


@pytest.mark.parametrize(
    ("accept", "default", "chosen"),
    [
        (None, "npy", "npy"),
        ("", "npy", "npy"),
        ("*/*", "csv", "csv"),
        ("application/json", "npy", "json"),
        ("Application/X-NPY", "json", "npy"),
        ("application/octet-stream", "json", "raw"),
        ("text/*", "json", "csv"),
        ("application/*", "npy", "npy"),
        ("application/*", "csv", "json"),
        ("text/csv, application/json", "npy", "csv"),
        ("text/csv;q=0.5, application/json", "npy", "json"),
        ("text/csv;q=0.5, application/json;q=0.4", "npy", "csv"),
        ("text/csv;q=0, application/json;q=0.1", "csv", "json"),
        ("text/csv;header=present;q=0.2, */*;q=0.1", "npy", "csv"),
        ("image/png, */*;q=0.1", "npy", "npy"),
        ("text/csv;q=high, application/json", "npy", "json"),
    ],
)
def test_a_client_gets_what_it_prefers(accept: str | None, default: Any, chosen: str) -> None:
    assert negotiate(accept, default)[0] == chosen


@pytest.mark.parametrize(
    ("accept", "default", "allowed"),
    [
        ("*/*", "npy", ["npy"]),
        (None, "npy", ["npy"]),
        ("application/x-npy, application/json", "csv", ["npy", "json"]),
        ("application/json;q=0.5, application/x-npy", "csv", ["npy", "json"]),
        ("application/x-npy, */*", "csv", ["npy", "csv", "json", "raw"]),
        ("application/x-npy, */*;q=0.1", "raw", ["npy", "raw", "json", "csv"]),
        ("*/*, application/json;q=0", "json", ["csv", "npy", "raw"]),
        ("application/*;q=0.2, */*;q=0.1, application/x-npy;q=0", "json", ["json", "raw", "csv"]),
        ("text/*;q=0, */*", "csv", ["json", "npy", "raw"]),
        ("text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8", "npy", None),
        (",, application/json ;\tQ = 0.3 , text/csv;q=1.000", "npy", ["csv", "json"]),
        ('text/csv;header="a, b;q=0", application/json;q=0.5', "npy", ["csv", "json"]),
        ("text/csv;q=-1, application/json;q=2, */*;q=nan, application/x-npy", "raw", ["npy"]),
        ("application/json;q=0.001, text/csv;q=0.000", "raw", ["json"]),
    ],
)
def test_all_that_a_client_takes_is_tried_in_its_order(
    accept: str | None, default: Any, allowed: list[str] | None
) -> None:
    assert [*negotiate(accept, default)] == (allowed or ["npy", "json", "csv", "raw"])


def test_a_long_accept_is_read_in_no_time() -> None:
    started_at = process_time()
    for accept in ('"' * 60_000, ",;" * 30_000, "a;" * 30_000, '"\\' * 20_000 + "x"):
        with pytest.raises(NotAcceptable):
            negotiate(accept, "json")
    assert process_time() - started_at < 2


@pytest.mark.parametrize("accept", ["image/png", "image/*", "text/csv;q=0", "json", "a, b;q=nan"])
def test_an_unknown_form_is_answered_with_the_known(accept: str) -> None:
    known = "application/json or text/csv or application/x-npy or application/octet-stream"
    with pytest.raises(NotAcceptable) as info:
        negotiate(accept, "json")
    assert (info.value.expected, info.value.got) == (known, repr(accept))


SCORES = np.array([[0.5, 1.5], [2.5, 3.5], [4.5, 5.5]], np.float32)
ONE = {"scores": SCORES}
TWO = {"scores": SCORES, "labels": np.array([7, 8, 9])}


@pytest.mark.parametrize(
    ("outputs", "is_batch", "expected"),
    [
        (ONE, True, [[2.5, 3.5]]),
        (ONE, False, [2.5, 3.5]),
        (TWO, True, [{"scores": [2.5, 3.5], "labels": 8}]),
        (TWO, False, {"scores": [2.5, 3.5], "labels": 8}),
        ([0, (749, 600)], False, [749, 600]),
        ([0, {"class": "cat", "p": np.float64(0.5)}], True, [{"class": "cat", "p": 0.5}]),
        ([0, None], False, None),
    ],
)
def test_json_of_one_item(outputs: Outputs, is_batch: bool, expected: Any) -> None:
    assert json.loads(joined(encode(rows(outputs, 1), "json", is_batch=is_batch))) == expected


def test_json_and_csv_keep_the_order_of_the_request() -> None:
    mixed = [*rows(ONE, 2, 0), *rows({"scores": SCORES + 10}, 1)]
    expected = [[4.5, 5.5], [0.5, 1.5], [12.5, 13.5]]
    assert json.loads(joined(encode(mixed, "json", is_batch=True))) == expected
    assert joined(encode(mixed, "csv", is_batch=True)) == b"4.5,5.5\n0.5,1.5\n12.5,13.5\n"


@pytest.mark.parametrize(
    ("outputs", "line"),
    [
        (TWO, b"0.5,1.5,7\n"),
        (["cat"], b"cat\n"),
        (["a,b"], b'"a,b"\n'),
        ([(749, 600)], b"749,600\n"),
        ([3], b"3\n"),
        ([np.array([[1, 2], [3, 4]])], b"1,2,3,4\n"),
    ],
)
def test_csv_has_a_line_for_each_item(outputs: Outputs, line: bytes) -> None:
    assert joined(encode(rows(outputs, 0), "csv", is_batch=False)) == line


@pytest.mark.parametrize("value", [[[1], [2, 3]], {"a": 1}, b"\xff", object()])
def test_what_csv_cannot_hold_is_the_models_fault(value: Any) -> None:
    with pytest.raises(PredictError):
        encode([Row([value], 0)], "csv", is_batch=False)


@pytest.mark.parametrize("dtype", ["float32", "float16", ">f8", "uint8", "bool", "complex64", "U3"])
def test_npy_is_what_numpy_reads(dtype: str) -> None:
    batch = np.arange(12).reshape(3, 4).astype(dtype)
    body = joined(encode(rows({"a": batch}, 0, 1, 2), "npy", is_batch=True))
    read = np.load(io.BytesIO(body))
    assert read.dtype == batch.dtype.newbyteorder("=")
    np.testing.assert_array_equal(read, batch)


def test_npy_of_one_item_has_no_batch_axis() -> None:
    for is_batch, expected in ((True, SCORES[1:2]), (False, SCORES[1])):
        body = joined(encode(rows(ONE, 1), "npy", is_batch=is_batch))
        np.testing.assert_array_equal(np.load(io.BytesIO(body)), expected, strict=True)


def test_npy_of_several_batches_is_one_array() -> None:
    other = {"scores": SCORES + 10}
    mixed = [*rows(ONE, 1, 2), *rows(other, 0), *rows(ONE, 0)]
    read = np.load(io.BytesIO(joined(encode(mixed, "npy", is_batch=True))))
    np.testing.assert_array_equal(read, [SCORES[1], SCORES[2], SCORES[0] + 10, SCORES[0]])


def yolo(batch_size: int, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    generator = np.random.default_rng(seed)
    return {
        name: generator.random((batch_size, side, side, 3), np.float32)
        for name, side in (("conv2d_58", 2), ("conv2d_66", 4), ("conv2d_74", 8))
    }


def test_npy_of_named_outputs_is_flat_output_by_output() -> None:
    batch = yolo(3, seed=0)
    read = np.load(io.BytesIO(joined(encode(rows(batch, 0, 1, 2), "npy", is_batch=True))))
    np.testing.assert_array_equal(
        read, np.concatenate([array.ravel() for array in batch.values()]), strict=True
    )


def test_npy_of_named_outputs_of_two_batches_is_flat_output_by_output() -> None:
    first, second = yolo(2, seed=0), yolo(3, seed=1)
    mixed = [*rows(first, 1), *rows(second, 0, 1)]
    read = np.load(io.BytesIO(joined(encode(mixed, "npy", is_batch=True))))
    expected = [part.ravel() for name in first for part in (first[name][1:], second[name][:2])]
    np.testing.assert_array_equal(read, np.concatenate(expected), strict=True)


@pytest.mark.parametrize("codec", ["npy", "raw"])
def test_a_batchs_arrays_are_written_without_a_copy(codec: Any) -> None:
    batch = yolo(4, seed=0)
    buffers = encode(rows(batch, 1, 2, 3), codec, is_batch=True)
    views = [np.frombuffer(buffer, np.float32) for buffer in buffers[codec == "npy" :]]
    assert len(views) == 3
    for view, array in zip(views, batch.values(), strict=True):
        assert np.shares_memory(view, array)
        np.testing.assert_array_equal(view, array[1:].ravel())


def test_outputs_of_unlike_types_make_one_array_of_their_common_type() -> None:
    read = np.load(io.BytesIO(joined(encode(rows(TWO, 0, 1), "npy", is_batch=True))))
    np.testing.assert_array_equal(read, np.array([0.5, 1.5, 2.5, 3.5, 7, 8]), strict=True)


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([(749, 600), (4, 5)], np.array([(749, 600), (4, 5)])),
        ([1.5, 2], np.array([1.5, 2.0])),
        ([np.ones((2, 2)), np.zeros((2, 2))], np.array([np.ones((2, 2)), np.zeros((2, 2))])),
    ],
)
def test_objects_that_are_numbers_make_an_array(outputs: Outputs, expected: Any) -> None:
    body = joined(encode(rows(outputs, 0, 1), "npy", is_batch=True))
    np.testing.assert_array_equal(np.load(io.BytesIO(body)), expected, strict=True)


def test_a_hundred_objects_make_an_array() -> None:
    body = joined(encode(rows(list(range(100)), *range(100)), "npy", is_batch=True))
    np.testing.assert_array_equal(np.load(io.BytesIO(body)), np.arange(100))


@pytest.mark.parametrize(
    "outputs",
    [["a", b"\xff"], ["a", "b\0"], [{"a": 1}, {}], [[1], [1, 2]], [[[1], [2, 3]], 1], [None, None]],
)
def test_what_makes_no_array_is_the_models_fault(outputs: Outputs) -> None:
    with pytest.raises(PredictError):
        encode(rows(outputs, 0, 1), "npy", is_batch=True)


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        (["a", b"gr\xc3\xbcn"], np.array(["a", "grün"])),
        ({"a": np.array([[b"x", b"yz"]] * 2, object)}, np.array([["x", "yz"]] * 2)),
        ({"a": np.array([1.5, 3e38], ml_dtypes.bfloat16)}, np.float32([1.5, 3.00405527e38])),
        ({"a": np.array(["2020-01-01", "NaT"], "M8[D]")}, np.array(["2020-01-01", "NaT"], "M8[D]")),
        ({"a": np.array([2**64 - 1, 1], np.uint64)}, np.array([2**64 - 1, 1], np.uint64)),
    ],
)
def test_npy_holds_text_and_half_precision_and_times(outputs: Outputs, expected: Any) -> None:
    read = np.load(io.BytesIO(joined(encode(rows(outputs, 0, 1), "npy", is_batch=True))))
    np.testing.assert_array_equal(read, expected)
    assert read.dtype.kind == expected.dtype.kind


@pytest.mark.parametrize(
    "other", [np.array([2**53 + 1]), np.array([b"x"], object), np.array([2**64 - 1], np.uint64)]
)
def test_outputs_that_one_array_would_change_are_refused(other: Any) -> None:
    outputs = {"a": np.array([0.5]), "b": other}
    with pytest.raises(PredictError, match=r"no one array without loss: got .*float64"):
        encode(rows(outputs, 0), "npy", is_batch=True)


def test_csv_says_half_precision_exactly() -> None:
    outputs = {"a": np.array([[65504, 0.1]], np.float16), "b": np.array([1.5], ml_dtypes.bfloat16)}
    line = joined(encode(rows(outputs, 0), "csv", is_batch=True)).decode()
    assert np.array_equal(np.float16(line.split(",")[:2]), outputs["a"][0])
    assert line == "65504.0,0.099975586,1.5\n"


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([b"\0\1", "grün", bytearray(b"x"), memoryview(b"y")], b"\0\1gr\xc3\xbcnxy"),
        ([np.array([1, 2], "<i2"), np.array([3], "<i2")], b"\1\0\2\0\3\0"),
        ({"a": np.zeros((2, 0)), "b": np.array([1, 2], "<i2")}, b"\1\0\2\0"),
    ],
)
def test_raw_is_the_bytes_alone(outputs: Outputs, expected: bytes) -> None:
    count = len(outputs["b"]) if isinstance(outputs, dict) else len(outputs)
    assert joined(encode(rows(outputs, *range(count)), "raw", is_batch=True)) == expected


@pytest.mark.parametrize("value", [{"a": 1}, None])
def test_what_has_no_bytes_is_the_models_fault(value: Any) -> None:
    with pytest.raises(PredictError):
        encode([Row([value], 0)], "raw", is_batch=False)


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        ({"a": np.array([[1.0, np.nan]])}, b"[[1.0,NaN]]"),
        ([[1.0, float("inf")]], b"[[1.0,Infinity]]"),
        ([{"p": float("nan")}], b'[{"p":NaN}]'),
    ],
)
def test_json_has_tokens_for_nan_as_the_containers_have(outputs: Outputs, text: bytes) -> None:
    assert joined(encode(rows(outputs, 0), "json", is_batch=True)) == text


@pytest.mark.parametrize(
    ("body", "value"), [(b"[1, 2]", [1, 2]), ("plain", "plain"), (b"\xff\xd8", b"\xff\xd8")]
)
def test_a_whole_reply_is_its_body_in_json(body: bytes | str, value: Any) -> None:
    assert json_value(Row([Reply(body, "text/plain")], 0)) == value


def test_rows_of_several_batches_are_one_array_per_output() -> None:
    first = {"a": np.arange(6.0).reshape(3, 2), "b": np.array([1, 2, 3])}
    second = {"a": np.ones((1, 2)), "b": np.array([9])}
    found = named_arrays([Row(first, 1), Row(first, 2), Row(second, 0)])
    np.testing.assert_array_equal(found["a"], [[2, 3], [4, 5], [1, 1]])
    np.testing.assert_array_equal(found["b"], [2, 3, 9])


def test_outputs_of_unlike_shapes_make_no_array() -> None:
    rows = [Row({"a": np.ones((1, 2))}, 0), Row({"a": np.ones((1, 3))}, 0)]
    with pytest.raises(PredictError, match="'a' has results of unlike shapes"):
        named_arrays(rows)


@pytest.mark.parametrize(
    ("values", "kind", "shape"),
    [
        ([1, 2], "i", (2,)),
        ([1.5, 2], "f", (2,)),
        ([np.ones(3), np.zeros(3)], "f", (2, 3)),
        ([np.ones(3), np.zeros(2)], "O", (2,)),
        (["a", "b"], "O", (2,)),
        ([[1, 2], {"a": 1}], "O", (2,)),
        ([(1, 2)], "O", (1,)),
        ([None], "O", (1,)),
    ],
)
def test_objects_are_one_output(values: list[object], kind: str, shape: tuple[int, ...]) -> None:
    rows = [Row(values, index) for index in range(len(values))]
    (found,) = named_arrays(rows).values()
    assert (found.dtype.kind, found.shape) == (kind, shape)
