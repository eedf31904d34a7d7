"""Clipper's query API. Bodies and texts: ucbrise/clipper's query_frontend.hpp and json_util.cpp."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayserve_app.app import create_app
from rayserve_app.errors import RequestTooLarge
from rayserve_app.inference.model import Model
from rayserve_app.payloads.inputs import Inputs
from rayserve_app.protocols.clipper.messages import (
    MalformedQuery,
    Prediction,
    Query,
    join,
    parse,
    render,
    reparse,
)
from rayserve_app.settings.model import InputSettings, LimitSettings, ModelSettings
from rayserve_app.types import Metadata, TensorSpec
from tests.protocols import FunctionBackend, call, create_model
from tests.protocols.clipper.messages import create_echo, predict

SCHEMA = '\n  {\n   "input" := [double] | [int] | [string] | [byte] | [float],\n  }\n'
SLO_EXPLANATION = "Failed to retrieve a prediction response within the specified latency SLO"


def create_inputs(kind: str, codec: str = "raw", **limits: Any) -> Inputs:
    declared = {"type": kind, "codec": codec}
    return Inputs(InputSettings.model_validate(declared), LimitSettings.model_validate(limits))


# The body, and what it asks: the items of each query, whether it is a batch, the version.
QUERIES: dict[str, tuple[str, bytes, tuple[list[Any], bool, str | None]]] = {
    "integers": ("integers", b'{"input": [1, -2]}', ([[1, -2]], False, None)),
    "largest integers": (
        "integers",
        b'{"input": [2147483647, -2147483648]}',
        ([[2147483647, -2147483648]], False, None),
    ),
    "floats": ("floats", b'{"input": [1.0, 25e-1]}', ([[1.0, 2.5]], False, None)),
    "doubles": ("doubles", b'{"input": [1.5]}', ([[1.5]], False, None)),
    "whole doubles": ("doubles", b'{"input": [1, 2.5]}', ([[1.0, 2.5]], False, None)),
    "whole floats": ("floats", b'{"input_batch": [[1], [-0]]}', ([[1.0], [0.0]], True, None)),
    "no doubles": ("doubles", b'{"input": []}', ([[]], False, None)),
    "string": ("string", b'{"input": "a,\\u0000b."}', (["a,\0b."], False, None)),
    "JSON in a string": ("string", b'{"input": "{}"}', (["{}"], False, None)),
    "bytes": ("bytes", b'{"input": "AP8+"}', ([b"\0\xff>"], False, None)),
    "bytes, unpadded": ("bytes", b'{"input": "YQ"}', ([b"a"], False, None)),
    "batch": (
        "doubles",
        b'{"input_batch": [[1.5], [2.5, 3.5]]}',
        ([[1.5], [2.5, 3.5]], True, None),
    ),
    "batch of strings": ("string", b'{"input_batch": ["a", "b"]}', (["a", "b"], True, None)),
    "batch of one": ("string", b'{"input_batch": ["a"]}', (["a"], False, None)),
    "batch of none": ("string", b'{"input_batch": []}', ([], True, None)),
    "input wins": ("string", b'{"input_batch": ["a", "b"], "input": "c"}', (["c"], False, None)),
    "other keys": ("string", b'{"uid": 1, "input": "a", "x": {}}', (["a"], False, None)),
    "version": ("string", b'{"input": "a", "version": "2"}', (["a"], False, "2")),
    "no version": ("string", b'{"input": "a", "version": null}', (["a"], False, None)),
}


@pytest.mark.parametrize(("kind", "body", "expected"), QUERIES.values(), ids=QUERIES)
def test_a_query_is_parsed(
    kind: str, body: bytes, expected: tuple[list[Any], bool, str | None]
) -> None:
    query = parse(body, create_inputs(kind))
    values = [item.tolist() if isinstance(item, np.ndarray) else item for (item,) in query.inputs]
    assert (values, query.is_batch, query.version) == expected


@pytest.mark.parametrize(
    ("kind", "dtype"), [("integers", "int32"), ("floats", "float32"), ("doubles", "float64")]
)
def test_vectors_have_clippers_types(kind: str, dtype: str) -> None:
    body = b'{"input": [1]}' if kind == "integers" else b'{"input": [1.0]}'
    assert parse(body, create_inputs(kind)).inputs[0][0].dtype == dtype


def test_one_query_may_carry_a_stream_of_images() -> None:
    stream = base64.b64encode(b"\0\0\0\1a\0\0\0\2bc").decode()
    body = json.dumps({"input_batch": [stream, stream]})
    query = parse(body.encode(), create_inputs("bytes", "packed_jpeg"))
    assert query == Query([[b"a", b"bc"]] * 2, True, None)


MISSING = "JSON object does not have required keys input or input_batch"
FAULTS: dict[str, tuple[str, Any, str]] = {
    "no integer": (
        "integers",
        {"input_batch": [[1, 2], [3.24, 0.32]]},
        "Array input of type Number is not of type int",
    ),
    "1.0": ("integers", {"input": [1.0]}, "Array input of type Number is not of type int"),
    "33 bits": (
        "integers",
        {"input": [2**31]},
        "Array input of type Number is not of type int",
    ),
    "string": ("doubles", {"input": ["a"]}, "Array input of type String is not of type double"),
    "null": ("doubles", {"input": [None]}, "Array input of type Null is not of type double"),
    "true": ("integers", {"input": [True]}, "Array input of type True is not of type int"),
    "false": ("integers", {"input": [False]}, "Array input of type False is not of type int"),
    "list": ("doubles", {"input": [[1.5]]}, "Array input of type Array is not of type double"),
    "object": ("doubles", {"input": [{}]}, "Array input of type Object is not of type double"),
    "no string": (
        "string",
        {"input": ["a"]},
        "Type mismatch! JSON key input expected type Stringbut found type Array",
    ),
    "no array": (
        "doubles",
        {"input": 1.5},
        "Type mismatch! JSON key input expected type Arraybut found type Number",
    ),
    "no batch": (
        "string",
        {"input_batch": "a"},
        "Type mismatch! JSON key input_batch expected type Arraybut found type String",
    ),
    "no text version": (
        "string",
        {"input": "a", "version": 1},
        "Type mismatch! JSON key version expected type Stringbut found type Number",
    ),
    "no element array": (
        "doubles",
        {"input_batch": [1.5]},
        "Array input of type Number is not of type array",
    ),
    "no element string": (
        "string",
        {"input_batch": ["a", ["b"]]},
        "Array input of type Array is not of type string",
    ),
    "no element bytes": (
        "bytes",
        {"input_batch": [None]},
        "PredictionData of type Null is not of type base64-encoded string",
    ),
    "neither key": ("string", {"inputs": "a"}, MISSING),
    "nothing": ("string", {}, MISSING),
}


@pytest.mark.parametrize(("kind", "body", "cause"), FAULTS.values(), ids=FAULTS)
async def test_a_fault_is_told_in_upstreams_words(kind: str, body: Any, cause: str) -> None:
    response = await predict(create_echo(kind), body)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "error": "Json error",
        "cause": f"Error parsing JSON: {cause}. Expected JSON schema: {SCHEMA}",
    }
    assert list(response.json()) == ["error", "cause"]


# query_frontend_tests.cpp, TestDecodeMalformedJSON.
@pytest.mark.parametrize(
    ("body", "offset"),
    [
        (b'{"uid": 2hkdshfdshffhkj32kjhh{dskjfh32r"3r32"', 9),
        (b'dshfdshffhkj32fsd32jk huf32h, 3 } 24j dskjfh32r"3r32', 0),
        (b'{"uid": 1, "input": [1,}', 23),
    ],
)
async def test_malformed_json_is_told_with_its_offset(body: bytes, offset: int) -> None:
    cause = (await predict(create_echo(), body)).json()["cause"]
    assert cause.startswith("Error parsing JSON: JSON parse error: ")
    assert cause.endswith(f" (offset {offset})\n. Expected JSON schema: {SCHEMA}")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("string", b""),
        ("string", b"{"),
        ("string", b"[]"),
        ("string", b'{"input": NaN}'),
        ("string", b"\xff"),
        ("doubles", b"[" * 100_000),
        ("bytes", b'{"input": "YQ=Q"}'),
        ("tensor", b'{"input": ["a"]}'),
        ("tensors", b'{"input": []}'),
    ],
)
async def test_other_faults_are_json_errors_too(kind: str, body: bytes) -> None:
    response = await predict(create_echo(kind), body)
    assert response.status_code == 400
    assert response.json()["error"] == "Json error"
    assert response.json()["cause"].startswith("Error parsing JSON: ")
    assert response.json()["cause"].endswith(f". Expected JSON schema: {SCHEMA}")


def test_a_fault_in_a_batch_names_its_place() -> None:
    query = parse(b'{"input_batch": ["YQ==", "?"]}', create_inputs("bytes"))
    assert query.inputs[0] == [b"a"]
    assert str(query.inputs[1]).endswith("at `input_batch[1]`")
    with pytest.raises(MalformedQuery, match=r"at `input_batch\[0\]`"):
        parse(b'{"input_batch": ["!", "?"]}', create_inputs("bytes"))


@pytest.mark.parametrize("codec", ["raw", "packed_jpeg"])
def test_too_many_queries_are_too_large(codec: str) -> None:
    body = json.dumps({"input_batch": [base64.b64encode(b"\0\0\0\1a").decode()] * 3})
    with pytest.raises(RequestTooLarge, match="at most 2, got 3"):
        parse(body.encode(), create_inputs("bytes", codec, max_items=2))


NOT_DEFAULT = '"default":false,"use_default":false'
DEFAULT = '"default":true,"use_default":true'
REPLIES: dict[str, tuple[list[Prediction], bool, str]] = {
    "one": ([Prediction(0, 1)], False, f'{{"query_id":0,"output":1,{NOT_DEFAULT}}}'),
    "text": (
        [Prediction(0, "(749, 600)")],
        False,
        f'{{"query_id":0,"output":"(749, 600)",{NOT_DEFAULT}}}',
    ),
    "default": (
        [Prediction(3, -1.0, "late")],
        False,
        f'{{"query_id":3,"output":-1.0,{DEFAULT},"default_explanation":"late"}}',
    ),
    "two": (
        [Prediction(1, [1, 2]), Prediction(2, None, "")],
        True,
        f'{{"batch_predictions":[{{"query_id":1,"output":[1,2],{NOT_DEFAULT}}},'
        f'{{"query_id":2,"output":null,{DEFAULT},"default_explanation":""}}]}}',
    ),
    "none": ([], True, '{"batch_predictions":[]}'),
}


@pytest.mark.parametrize(("predictions", "is_batch", "body"), REPLIES.values(), ids=REPLIES)
def test_a_reply_is_rendered(predictions: list[Prediction], is_batch: bool, body: str) -> None:
    bodies = [render(prediction) for prediction in predictions]
    assert join(bodies, is_batch=is_batch) == body.encode()


@pytest.mark.parametrize(("predictions", "is_batch", "body"), REPLIES.values(), ids=REPLIES)
def test_a_reply_reads_as_its_predictions(
    predictions: list[Prediction], is_batch: bool, body: str
) -> None:
    reply = json.loads(body)
    answers = reply["batch_predictions"] if is_batch else [reply]
    assert predictions == [
        Prediction(answer["query_id"], answer["output"], answer.get("default_explanation"))
        for answer in answers
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-1.0", -1.0),
        ("[1,2]", [1, 2]),
        ("[1, 2]", [1, 2]),
        ("true", True),
        ("null", None),
        ('"a"', "a"),
        ('{"a": 1}', {"a": 1}),
        ("(749, 600)", "(749, 600)"),
        ("None", "None"),
        ("True", "True"),
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("1 2", "1 2"),
        ("", ""),
        ("a", "a"),
    ],
)
async def test_output_that_is_json_is_nested(text: str, value: Any) -> None:
    assert reparse(text) == value
    reply = (await predict(create_echo(), {"input": text})).json()
    assert (reply["output"], type(reply["output"])) == (value, type(value))
    assert reply["default"] is False


@pytest.mark.parametrize(
    ("result", "value"),
    [
        ((749, 600), "(749, 600)"),
        (3, 3),
        (2.5, 2.5),
        ([1, 2], [1, 2]),
        (None, "None"),
        (b"a", "a"),
        (b"[1]", [1]),
        (b"\xff", {"b64": "/w=="}),
        ([b"a", 1.5], ["a", 1.5]),
        ({"a": np.array([1, 2]), 3: (4, b"b")}, {"a": [1, 2], "3": [4, "b"]}),
        (np.array([[1.5, 2]]), [[1.5, 2.0]]),
        (np.array([b"a"], object), ["a"]),
        ((np.int64(749), np.float32(0.1), b"a"), "(749, 0.1, 'a')"),
        ({"p": float("nan")}, "{'p': nan}"),
        (np.array([np.inf, 1]), "[inf, 1.0]"),
        (float("nan"), "nan"),
        (np.float16(65504), 65504.0),
        (np.datetime64("2020-01-01"), "2020-01-01"),
    ],
)
async def test_output_is_the_text_of_a_result(result: Any, value: Any) -> None:
    app = create_app(create_model(lambda items: [result], input={"type": "string"}))
    assert (await predict(app, {"input": "a"})).json()["output"] == value


async def test_named_tensors_are_lists() -> None:
    one = create_model(lambda items: {"a": np.ones((1, 2))}, input={"type": "string"})
    assert (await predict(create_app(one), {"input": "a"})).json()["output"] == [1, 1]
    two = create_model(
        lambda items: {"a": np.ones((1, 2)), "b": np.array([3])}, input={"type": "string"}
    )
    reply = (await predict(create_app(two), {"input": "a"})).json()
    assert reply["output"] == {"a": [1, 1], "b": 3}


async def test_a_stream_has_a_list_of_outputs() -> None:
    model = create_model(
        lambda items: [len(item) for item in items],
        input={"type": "bytes", "codec": "packed_jpeg"},
    )
    stream = base64.b64encode(b"\0\0\0\1a\0\0\0\2bc").decode()
    body = {"input_batch": [stream, base64.b64encode(b"\0\0\0\0013").decode()]}
    reply = (await predict(create_app(model), body)).json()
    assert [answer["output"] for answer in reply["batch_predictions"]] == [[1, 2], 1]


@pytest.mark.parametrize("path", ["/predict", "/predict/"])
async def test_single_and_batch_and_the_trailing_slash(path: str) -> None:
    app = create_echo()
    response = await predict(app, {"input": "a"}, path)
    assert response.content == f'{{"query_id":0,"output":"a",{NOT_DEFAULT}}}'.encode()
    assert response.headers["content-type"] == "application/json"
    response = await predict(app, {"input_batch": ["1", "2"]}, path)
    assert (
        response.content
        == (
            f'{{"batch_predictions":[{{"query_id":1,"output":1,{NOT_DEFAULT}}},'
            f'{{"query_id":2,"output":2,{NOT_DEFAULT}}}]}}'
        ).encode()
    )
    response = await predict(app, {"input_batch": ["3"]}, path)
    assert response.content == f'{{"query_id":3,"output":3,{NOT_DEFAULT}}}'.encode()
    response = await predict(app, {"input_batch": []}, path)
    assert response.content == b'{"batch_predictions":[]}'


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", None])
async def test_the_content_type_plays_no_part(content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}
    response = await call(
        create_echo(), "POST", "/predict", content=b'{"input": "a"}', headers=headers
    )
    assert response.json()["output"] == "a"


async def test_a_version_must_be_the_one_served() -> None:
    app = create_echo(version="2")
    for version in ("2", None):
        assert (await predict(app, {"input": "a", "version": version})).status_code == 200
    response = await predict(app, {"input": "a", "version": "1"})
    assert response.status_code == 400
    assert response.json() == {
        "error": "Query processing error",
        "cause": "Requested version: 1 does not exist for model: m",
    }


class TwoVersions(FunctionBackend):
    """Version 2 takes one float, version 1 two integers; each answers its version's number."""

    def __init__(self) -> None:
        super().__init__(lambda items: items)
        specs = {"2": TensorSpec("x", "float32", (-1, 1)), "1": TensorSpec("x", "int32", (-1, 2))}
        self._versions = {
            version: {"serving_default": self._predictor(version, spec)}
            for version, spec in specs.items()
        }

    def _predictor(self, version: str, spec: TensorSpec) -> FunctionBackend:
        metadata = Metadata("function", inputs=(spec,))
        return FunctionBackend(lambda items: [version] * len(items), metadata)

    def versions(self) -> Any:
        return self._versions


async def test_a_query_picks_one_of_the_versions_served_by_its_name() -> None:
    model = Model(
        ModelSettings.model_validate({"input": {"type": "tensor"}}), TwoVersions(), name="m"
    )
    model.load()
    model.warm_up()
    app = create_app(model)
    for body, output in [
        ({"input": [0.5]}, 2),
        ({"input": [0.5], "version": None}, 2),
        ({"input": [0.5], "version": "2"}, 2),
        ({"input": [1, 2], "version": "1"}, 1),
    ]:
        assert (await predict(app, body)).json()["output"] == output
    reply = (await predict(app, {"input_batch": [[1, 2], [3, 4]], "version": "1"})).json()
    assert [answer["output"] for answer in reply["batch_predictions"]] == [1, 1]
    response = await predict(app, {"input": [1, 2], "version": "2"})
    assert response.status_code == 400
    assert response.json()["error"] == "Json error"
    response = await predict(app, {"input": [1, 2], "version": "3"})
    assert response.status_code == 400
    assert response.json() == {
        "error": "Query processing error",
        "cause": "Requested version: 3 does not exist for model: m",
    }


@pytest.mark.parametrize(
    ("default", "output"),
    [("-1.0", -1.0), ("None", "None"), (None, None), ({"a": [1]}, {"a": [1]}), ("[1]", [1])],
)
async def test_a_late_prediction_is_the_default_output(default: Any, output: Any) -> None:
    gate = threading.Event()
    model = create_model(
        lambda items: gate.wait(20) and list(items),
        input={"type": "string"},
        deadline={"latency_ms": 30, "default_output": default},
    )
    response = await predict(create_app(model), {"input_batch": ["a", "b"]})
    gate.set()
    assert response.status_code == 200
    first, second = response.json()["batch_predictions"]
    assert first == {
        "query_id": 0,
        "output": output,
        "default": True,
        "use_default": True,
        "default_explanation": SLO_EXPLANATION,
    }
    assert second == first | {"query_id": 1}
    assert model.recorder.defaults == {"deadline": 2}


@pytest.mark.parametrize("is_batch", [False, True])
async def test_a_model_that_cannot_be_asked_is_the_default_output(is_batch: bool) -> None:
    # clipper_admin's integration test, after scaling to no replicas.
    model = create_model(
        list, input={"type": "string"}, deadline={"default_output": "DEFAULT"}, is_warm=False
    )
    app = create_app(model)
    response = await predict(app, {"input_batch": ["a", "b"]} if is_batch else {"input": "a"})
    assert response.status_code == 200
    reply = response.json()
    for answer in reply["batch_predictions"] if is_batch else [reply]:
        assert (answer["output"], answer["default"]) == ("DEFAULT", True)
        assert answer["default_explanation"] == "No connected models found for query"
    assert model.recorder.defaults == {"not_ready": 1 + is_batch}
    malformed = await predict(app, {"inputs": "a"})
    assert malformed.status_code == 400


async def test_a_queue_that_is_full_keeps_its_status() -> None:
    began, go_on = threading.Event(), threading.Event()

    def wait(items: Any) -> list[str]:
        began.set()
        go_on.wait(20)
        return list(items)

    model = create_model(wait, input={"type": "string"}, limits={"max_queued_items": 1})
    app = create_app(model)
    first = asyncio.create_task(predict(app, {"input": "a"}))
    await asyncio.to_thread(began.wait, 20)
    response = await predict(app, {"input": "b"})
    go_on.set()
    assert response.status_code == 503
    assert response.json()["error"] == "Query processing error"
    assert int(response.headers["retry-after"]) >= 1
    assert (await first).json()["output"] == "a"


async def test_a_failed_prediction_is_the_default_output_and_the_others_are_not() -> None:
    def parse_all(items: Sequence[str]) -> list[int]:
        return [int(item) for item in items]

    model = create_model(
        parse_all, input={"type": "string"}, deadline={"default_output": "unknown"}
    )
    response = await predict(create_app(model), {"input_batch": ["1", "two", "3"]})
    assert response.status_code == 200
    one, two, three = response.json()["batch_predictions"]
    assert (one["output"], one["default"]) == (1, False)
    assert (three["output"], three["default"]) == (3, False)
    assert (two["query_id"], two["output"], two["default"]) == (1, "unknown", True)
    assert "ValueError: invalid literal for int()" in two["default_explanation"]
    assert model.recorder.defaults == {"error": 1}


class Unspeakable:
    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize(
    "results", [{"a": np.array([1j])}, [{"a": object()}], ["\ud800"], [Unspeakable()], [], None]
)
async def test_a_result_that_cannot_be_told_is_the_default_output(results: Any) -> None:
    model = create_model(
        lambda items: results, input={"type": "string"}, deadline={"default_output": 0}
    )
    response = await predict(create_app(model), {"input": "a"})
    assert response.status_code == 200
    assert (response.json()["output"], response.json()["default"]) == (0, True)
    assert response.json()["default_explanation"]


async def test_an_image_that_is_none_is_the_callers_fault() -> None:
    model = create_model(lambda images: [image.shape for image in images], input={"type": "image"})
    body = {"input_batch": [base64.b64encode(b"no image").decode()] * 2}
    response = await predict(create_app(model), body)
    assert response.status_code == 400
    assert response.json()["error"] == "Query processing error"
    assert "not an image" in response.json()["cause"]
    assert "`[0]`" in response.json()["cause"]


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["data", "b64", "a", "input"]), inner, max_size=2)
    ),
    max_leaves=8,
)
QUERY_KEYS = st.sampled_from(["input", "input_batch", "version", "uid"])
BODIES = (
    st.binary(max_size=40)
    | st.dictionaries(QUERY_KEYS, VALUES, max_size=3).map(lambda body: json.dumps(body).encode())
    | st.lists(st.text("AP8+/-_=", max_size=8), max_size=3).map(
        lambda texts: json.dumps({"input_batch": texts}).encode()
    )
)


@pytest.mark.parametrize(
    ("kind", "codec"),
    [
        ("string", "raw"),
        ("string", "json_metadata"),
        ("bytes", "raw"),
        ("image", "packed_jpeg"),
        ("integers", "raw"),
        ("doubles", "raw"),
        ("tensor", "raw"),
        ("tensors", "raw"),
    ],
)
def test_no_body_gets_an_unexpected_answer(kind: str, codec: str) -> None:
    model = create_model(lambda items: ["1"] * len(items), input={"type": kind, "codec": codec})
    app = create_app(model)
    with asyncio.Runner() as runner:

        @settings(derandomize=True, deadline=None, max_examples=60, database=None)
        @given(BODIES)
        def check(body: bytes) -> None:
            response = runner.run(predict(app, body))
            assert response.status_code in (200, 400, 413)
            assert set(response.json()) in (
                {"error", "cause"},
                {"batch_predictions"},
                {"query_id", "output", "default", "use_default"},
            )

        check()
