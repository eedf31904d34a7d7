"""Whatever a model returns reaches clients of every protocol, or they are told why it does not.

Expected values are Python's, numpy's and `json`'s own; answers are read as clients read them.
"""

from __future__ import annotations

import base64
import csv
import dataclasses
import datetime
import enum
import io
import json
import struct
from collections import OrderedDict, UserDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple
from uuid import UUID

import ml_dtypes
import numpy as np
import PIL.Image
import pytest
import torch

from deployments.closure.backend import ClosureBackend, ClosureSettings
from rayserve_app.app import App, create_app
from rayserve_app.inference.model import Model
from tests.protocols import call

INPUT: Final = {"name": "doubles", "shape": [1, 1], "datatype": "FP64", "data": [1.0]}
BINARY: Final = {"parameters": {"binary_data_output": True}}

DTYPES: Final = {
    "FP64": "<f8",
    "FP32": "<f4",
    "FP16": "<f2",
    "BOOL": "?",
    "BF16": "<u2",
    "BYTES": "O",
}


class Refusal(Exception):
    """The protocol's own word for no; the model's fault, or the form that was asked for."""


def ok(response: Any) -> Any:
    """Return the response unless it is an error, of which somebody must be told the reason."""
    assert "Internal error" not in response.text, response.text
    if response.status_code != 200:
        raise Refusal(response.text)
    return response


async def invoke(app: App, accept: str, path: str = "/invocations") -> Any:
    headers = {"accept": accept}
    return ok(await call(app, "POST", path, json=[1.0], headers=headers)).content


async def as_json(app: App) -> Any:
    return json.loads(await invoke(app, "application/json"))


async def json_lines(app: App) -> Any:
    return json.loads(await invoke(app, "application/jsonlines"))


async def runtime(app: App) -> Any:
    return json.loads(await invoke(app, "application/json", "/endpoints/m/invocations"))


async def multi_model_server(app: App) -> Any:
    return json.loads(await invoke(app, "application/json", "/predictions/m"))


async def as_csv(app: App) -> Any:
    (row,) = csv.reader(io.StringIO((await invoke(app, "text/csv")).decode(), newline=""))
    return row


async def npy(app: App) -> Any:
    return np.load(io.BytesIO(await invoke(app, "application/x-npy")), allow_pickle=False)


async def raw(app: App) -> Any:
    return await invoke(app, "application/octet-stream")


async def clipper(app: App) -> Any:
    answer = ok(await call(app, "POST", "/predict", json={"input": [1.0]})).json()
    if answer["default"]:
        raise Refusal(answer["default_explanation"])
    return answer["output"]


async def rows(app: App) -> Any:
    body = {"instances": [[1.0]]}
    return json.loads(ok(await call(app, "POST", "/v1/models/m:predict", json=body)).content)[
        "predictions"
    ][0]


async def columns(app: App) -> Any:
    body = {"inputs": [[1.0]]}
    return json.loads(ok(await call(app, "POST", "/v1/models/m:predict", json=body)).content)[
        "outputs"
    ][0]


async def simple_tensorflow_serving(app: App) -> Any:
    answer = ok(await call(app, "POST", "", json={"data": {"doubles": [[1.0]]}}))
    (output,) = json.loads(answer.content).values()
    return output[0]


async def cluster_serving(app: App) -> Any:
    answer = ok(await call(app, "POST", "/predict", json={"instances": [{"x": [1.0]}]})).json()
    text = json.loads(answer["predictions"][0])["value"]
    if text == "NaN":
        raise Refusal("NaN")
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if isinstance(value, dict) and value.keys() == {"data", "shape"}:
        are_integers = all(type(each) is int for each in value["data"])
        dtype = object if are_integers else None  # numpy takes large ones for floats
        return np.array(value["data"], dtype).reshape(value["shape"])
    return value


async def open_inference_json(app: App) -> Any:
    answer = ok(await call(app, "POST", "/v2/models/m/infer", json={"inputs": [INPUT]})).json()
    (output,) = answer["outputs"]
    datatype = output["datatype"]
    data = np.array(output["data"], DTYPES.get(datatype) or datatype.lower())
    return data.reshape(output["shape"])[0]


async def open_inference_binary(app: App) -> Any:
    body = {"inputs": [INPUT], **BINARY}
    answer = ok(await call(app, "POST", "/v2/models/m/infer", json=body))
    length = int(answer.headers["inference-header-content-length"])
    (output,) = json.loads(answer.content[:length])["outputs"]
    data, datatype = answer.content[length:], output["datatype"]
    if datatype == "BYTES":
        elements = []
        while data:
            (size,) = struct.unpack("<I", data[:4])
            elements.append(data[4 : 4 + size])
            data = data[4 + size :]
        array = np.array(elements, object)
    else:
        array = np.frombuffer(data, DTYPES.get(datatype) or datatype.lower())
    if datatype == "BF16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.reshape(output["shape"])[0]


Way = Callable[[App], Awaitable[Any]]

JSON_WAYS: Final[list[Way]] = [
    as_json,
    json_lines,
    runtime,
    multi_model_server,
    rows,
    columns,
    simple_tensorflow_serving,
    clipper,
    cluster_serving,
]
WAYS: Final[list[Way]] = [
    *JSON_WAYS,
    as_csv,
    npy,
    raw,
    open_inference_json,
    open_inference_binary,
]


class No(NamedTuple):
    """A refusal, and what it says."""

    reason: str = ""


class Case(NamedTuple):
    """What a function returns for a batch of one, and what clients get of it."""

    returned: Any
    json: Any
    """Wherever JSON carries it, unless `others` says otherwise."""
    others: Mapping[Way, Any] = {}


def objects(*values: Any) -> Any:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


def text(value: str) -> dict[Way, Any]:
    """What is one text to ways that are not JSON."""
    return {
        as_csv: [value],
        npy: np.array(value),
        raw: value.encode(),
        open_inference_json: value,
        open_inference_binary: value.encode(),
    }


def texts(*values: str) -> dict[Way, Any]:
    return {
        as_csv: list(values),
        npy: np.array(values),
        raw: "".join(values).encode(),
        open_inference_json: objects(*values),
        open_inference_binary: objects(*(value.encode() for value in values)),
    }


def no_text(*values: bytes) -> dict[Way, Any]:
    """What is not UTF-8."""
    alone = values[0] if len(values) == 1 else objects(*values)
    return {
        as_csv: No("not text: expected UTF-8, got bytes"),
        npy: No("not text: expected UTF-8, got bytes"),
        raw: b"".join(values),
        open_inference_json: No("bytes"),
        open_inference_binary: alone,
    }


def document(value: Any) -> dict[Way, Any]:
    """What only JSON can carry; an element of BYTES is its text."""
    written = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return {
        as_csv: No("type"),
        npy: No("type"),
        raw: No("type"),
        open_inference_json: written,
        open_inference_binary: written.encode(),
    }


def numbers(array: Any, **options: Any) -> dict[Way, Any]:
    """What an array of numbers is to ways that are not JSON."""
    flat = np.ravel(array)
    return {
        as_csv: [str(each) for each in (flat.astype("f4") if flat.dtype == "f2" else flat)],
        npy: array,
        raw: np.ascontiguousarray(array).tobytes(),
        open_inference_json: array,
        open_inference_binary: array,
    }


def nothing(kind: str, **own: Any) -> dict[Way, Any]:
    """What no protocol carries; Clipper's text of it is Python's."""
    return {way: No() if way is cluster_serving else No(kind) for way in WAYS}


NAN = np.array([np.nan, 1.5, -np.inf], np.float32)
BF16 = np.array([1.5, 3e38], ml_dtypes.bfloat16)
HALF = np.array([65504, 0.1], np.float16)
LARGE = np.array([2**64 - 1, 1], np.uint64)
INT64 = np.array([2**24 + 1, -(2**53) - 1, 2**63 - 1])
RECORD = np.zeros(1, [("a", "i4")])
RECURSIVE: list[Any] = []
RECURSIVE.append(RECURSIVE)


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Box:
    label: bytes
    score: Any


CASES: Final[dict[str, Case]] = {
    "bytes": Case([b"ab"], "ab", text("ab")),
    "UTF-8": Case(["é".encode()], "é", text("é")),
    "np.bytes_": Case([np.bytes_(b"ab")], "ab", text("ab")),
    "np.str_": Case([np.str_("ab")], "ab", text("ab")),
    "bytearray": Case([bytearray(b"ab")], "ab", text("ab")),
    "memoryview": Case([memoryview(b"ab")], "ab", text("ab")),
    "array of str": Case({"out": np.array(["ab"])}, "ab", text("ab")),
    "DT_STRING": Case({"out": objects(b"ab")}, "ab", text("ab")),
    "DT_STRING of two": Case({"out": objects(b"a", b"bc")[None]}, ["a", "bc"], texts("a", "bc")),
    "StringDType": Case(
        {"out": np.array([["a", "bc"]], np.dtypes.StringDType())}, ["a", "bc"], texts("a", "bc")
    ),
    "objects": Case([objects(b"a", "bc")], ["a", "bc"], texts("a", "bc")),
    "array of bytes": Case([np.array([b"a", b"bc"])], ["a", "bc"], texts("a", "bc")),
    "list of bytes": Case(
        [[b"a", b"bc"]],
        ["a", "bc"],
        {**document(["a", "bc"]), **{way: texts("a", "bc")[way] for way in (as_csv, npy, raw)}},
    ),
    "not UTF-8": Case([b"\xff\0"], b64(b"\xff\0"), no_text(b"\xff\0")),
    "DT_STRING, not UTF-8": Case({"out": objects(b"\xff")}, b64(b"\xff"), no_text(b"\xff")),
    "two, one not UTF-8": Case(
        [objects(b"\xff", b"a")], [b64(b"\xff"), "a"], no_text(b"\xff", b"a")
    ),
    "_bytes": Case(
        {"out_bytes": objects(b"a")},
        "a",
        {**text("a"), rows: b64(b"a"), columns: b64(b"a")},
    ),
    "NaN": Case(
        [NAN],
        NAN,
        {
            **numbers(NAN),
            clipper: "[nan, 1.5, -inf]",
            open_inference_json: No("NaN or infinity"),
        },
    ),
    "NaN alone": Case(
        [float("nan")],
        np.nan,
        {**numbers(np.array(np.nan)), clipper: "nan", open_inference_json: No("NaN or infinity")},
    ),
    "NaN in an object": Case(
        [{"p": np.inf}],
        {"p": np.inf},
        {
            **document({}),
            clipper: "{'p': inf}",
            open_inference_json: '{"p":Infinity}',
            open_inference_binary: b'{"p":Infinity}',
        },
    ),
    "float16": Case(
        [HALF], HALF.astype("f4"), {**numbers(HALF), open_inference_json: No("FP16 data via JSON")}
    ),
    "float16 alone": Case(
        [np.float16(65504)],
        65504.0,
        {**numbers(np.float16(65504)), open_inference_json: No("FP16 data via JSON")},
    ),
    "bfloat16": Case(
        {"out": BF16[None]},
        BF16.astype("f4"),
        {
            **numbers(BF16.astype("f4")),
            raw: BF16.tobytes(),
            open_inference_json: No("BF16 data via JSON"),
        },
    ),
    "uint64": Case({"out": LARGE[None]}, LARGE, numbers(LARGE)),
    "int64": Case([INT64], INT64, numbers(INT64)),
    "int64 in a list": Case(
        [INT64.tolist()],
        INT64.tolist(),
        {**document(INT64.tolist()), as_csv: [*map(str, INT64)], npy: INT64, raw: INT64.tobytes()},
    ),
    "an integer and a float": Case(
        [[2**53 + 1, 0.5]],
        [2**53 + 1, 0.5],
        {
            **document([2**53 + 1, 0.5]),
            as_csv: [str(2**53 + 1), "0.5"],
            npy: No("type int"),
            raw: No("type int"),
        },
    ),
    "an integer of 65 bits": Case(
        [2**64 + 1],
        2**64 + 1,
        {**document(2**64 + 1), as_csv: [str(2**64 + 1)]},
    ),
    "no elements": Case(
        {"out": np.zeros((1, 0, 3), "f4")},
        [],
        {
            **numbers(np.zeros((0, 3), "f4")),
            as_csv: [],
            cluster_serving: np.zeros((0, 3), "f4"),
        },
    ),
    "no strings": Case(
        {"out": np.zeros((1, 0), object)}, [], {**numbers(np.zeros(0)), npy: np.zeros(0)}
    ),
    "None": Case([None], None, {**document(None), as_csv: [""], clipper: "None"}),
    "date": Case([datetime.date(2020, 1, 2)], "2020-01-02", text("2020-01-02")),
    "datetime64": Case(
        {"out": np.array(["2020-01-02T03:04:05"], "M8[s]")},
        "2020-01-02T03:04:05",
        {
            **text("2020-01-02T03:04:05"),
            npy: np.array("2020-01-02T03:04:05", "M8[s]"),
            raw: np.array(1577934245, "<i8").tobytes(),
        },
    ),
    "datetime64, to the nanosecond": Case(
        [np.array(["2020-01-02T03:04:05", "NaT"], "M8[ns]")],
        ["2020-01-02T03:04:05.000000000", None],
        {
            as_csv: ["2020-01-02T03:04:05.000000000", ""],
            npy: np.array(["2020-01-02T03:04:05", "NaT"], "M8[ns]"),
            raw: np.array(["2020-01-02T03:04:05", "NaT"], "M8[ns]").tobytes(),
            open_inference_json: objects("2020-01-02T03:04:05.000000000", "null"),
            open_inference_binary: objects(b"2020-01-02T03:04:05.000000000", b"null"),
        },
    ),
    "duration, to the nanosecond": Case(
        [np.array([5], "m8[ns]")],
        No("timedelta64[ns]"),
        {**nothing("timedelta64"), npy: np.array([5], "m8[ns]"), raw: bytes([5, *[0] * 7])},
    ),
    "UUID": Case([UUID(int=5)], str(UUID(int=5)), text(str(UUID(int=5)))),
    "mapping": Case([UserDict(a=1)], {"a": 1}, document({"a": 1})),
    "integers as keys": Case(
        [{1: 2, None: b"x"}], {"1": 2, "null": "x"}, document({"1": 2, "null": "x"})
    ),
    "numpy's scalars": Case(
        [{"a": np.int64(3), "b": np.bool_(True), "c": np.float32(0.5)}],
        {"a": 3, "b": True, "c": 0.5},
        document({"a": 3, "b": True, "c": 0.5}),
    ),
    "PyTorch": Case([torch.ones(2)], [1.0, 1.0], numbers(np.ones(2, "f4"))),
    "PyTorch, with a gradient": Case(
        [torch.ones(2, requires_grad=True)], [1.0, 1.0], numbers(np.ones(2, "f4"))
    ),
    "PyTorch, bfloat16": Case(
        [torch.ones(2, dtype=torch.bfloat16)], [1.0, 1.0], numbers(np.ones(2, "f4"))
    ),
    "PyTorch, named": Case({"out": torch.ones(1, 2)}, [1.0, 1.0], numbers(np.ones(2, "f4"))),
    "PyTorch in an object": Case(
        [{"boxes": torch.ones(2), "n": torch.tensor(3)}],
        {"boxes": [1.0, 1.0], "n": 3},
        document({"boxes": [1.0, 1.0], "n": 3}),
    ),
    "Pillow": Case(
        [PIL.Image.new("RGB", (2, 1), (1, 2, 3))],
        [[[1, 2, 3], [1, 2, 3]]],
        numbers(np.array([[[1, 2, 3]] * 2], np.uint8)),
    ),
    "dataclass": Case(
        [Box(b"cat", np.float32(0.5))],
        {"label": "cat", "score": 0.5},
        {**document({"label": "cat", "score": 0.5}), clipper: str(Box(b"cat", np.float32(0.5)))},
    ),
    "enum": Case([Color.RED], "red", {**text("red"), clipper: "Color.RED"}),
    "subclass": Case([OrderedDict(a=1)], {"a": 1}, document({"a": 1})),
    "tuple": Case(
        [(749, 600)],
        [749, 600],
        {
            **document([749, 600]),
            as_csv: ["749", "600"],
            npy: np.array([749, 600]),
            raw: np.array([749, 600]).tobytes(),
            clipper: "(749, 600)",
        },
    ),
    "nested": Case(
        [{"a": np.ones(2, "f4"), "b": [b"x", {"c": np.int64(1)}], "d": (1, None)}],
        {"a": [1.0, 1.0], "b": ["x", {"c": 1}], "d": [1, None]},
        document({"a": [1.0, 1.0], "b": ["x", {"c": 1}], "d": [1, None]}),
    ),
    "ragged": Case([[[1], [2, 3]]], [[1], [2, 3]], document([[1], [2, 3]])),
    "big-endian": Case(
        {"out": np.array([[1, 2.5]], ">f4")}, [1.0, 2.5], numbers(np.array([1, 2.5], "<f4"))
    ),
    "masked": Case(
        [np.ma.array([1.5, 2], mask=[False, True])],
        [1.5, None],
        {**document([1.5, None]), as_csv: ["1.5", ""]},
    ),
    "half a pair": Case(["a\ud800"], No("surrogates"), nothing("surrogates")),
    "set": Case([{1}], No("type set"), {**nothing("type set"), clipper: "{1}"}),
    "set in an object": Case([{"a": {1}}], No("type set"), nothing("type")),
    "object": Case([[object()]], No("type object"), nothing("type object")),
    "keys that are no text": Case([{(1, 2): 3}], No("type tuple"), nothing("type")),
    "duration": Case(
        [np.timedelta64(3, "s")],
        No("timedelta64"),
        {
            **nothing("timedelta64"),
            clipper: "3 seconds",
            npy: np.array(3, "m8[s]"),
            raw: bytes([3, *[0] * 7]),
        },
    ),
    "complex": Case(
        {"out": np.array([[1 + 2j]])},
        No("complex128"),
        {**nothing("complex128"), npy: np.array([1 + 2j]), raw: np.array([1 + 2j]).tobytes()},
    ),
    "records": Case([RECORD], No("'<i4'"), {**nothing(""), npy: RECORD, raw: bytes(4)}),
    "recursion": Case([RECURSIVE], No("too deep"), nothing("")),
    "an error": Case([ValueError("bad day")], No("bad day"), nothing("bad day")),
}


def create(returned: Any) -> App:
    settings = ClosureSettings.model_validate({"function": "a:b", "input": {"type": "doubles"}})
    backend = ClosureBackend(settings)
    model = Model(settings.model_copy(update={"warm_up": False}), backend, name="m")
    backend._function = lambda items: returned
    model.warm_up()
    return create_app(model)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_a_result_is_answered_or_refused_with_the_reason(case: Case) -> None:
    app = create(case.returned)
    for way in WAYS:
        expected = case.others.get(way, case.json)
        if isinstance(expected, No):
            with pytest.raises(Refusal) as info:
                await way(app)
            assert way is cluster_serving or expected.reason in str(info.value), way.__name__
            continue
        try:
            found = await way(app)
        except Refusal as exc:
            pytest.fail(f"{way.__name__} refused: {exc}")
        check(found, expected, way.__name__)


def check(found: Any, expected: Any, way: str) -> None:
    """Compare: arrays by value, since JSON has no types; everything else to the letter."""
    if not isinstance(expected, np.ndarray | np.generic | float):
        assert (found.tolist() if isinstance(found, np.ndarray) else found) == expected, way
        return
    expected = np.asarray(expected)
    assert np.shape(found) == expected.shape, way
    if expected.dtype.kind == "f":
        np.testing.assert_array_equal(np.asarray(found, expected.dtype), expected, way)
    else:
        assert np.asarray(found, object).tolist() == expected.tolist(), way
