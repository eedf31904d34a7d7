"""Cluster Serving's HTTP frontend.

Bodies and texts: Analytics Zoo's serving guide, and the Scala of serving/http and
serving/postprocessing. Answers are read as its Python client reads them.
"""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Sequence
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from rayserve_app.app import App, create_app
from rayserve_app.inference.model import Model
from rayserve_app.protocols.cluster_serving.messages import (
    create_post_processing,
    float_text,
    pick_top_n,
    pretty,
    top_n,
)
from rayserve_app.settings.model import ModelSettings
from rayserve_app.types import Metadata, TensorSpec
from tests.clients.cluster_serving import http_json_to_ndarray, strip
from tests.protocols import FunctionBackend, call, create_model

ZOO = ["cluster_serving"]
BOTH = ["clipper", "cluster_serving"]

TEXT = "text/plain; charset=UTF-8"

VERSION = "/models/m/versions/1/predict"


def create_zoo(function: Any, **options: Any) -> App:
    return create_app(create_model(function, **({"protocols": ZOO} | options)))


def echo(items: Sequence[Any]) -> list[Any]:
    return list(items)


def create_tensors(*shape: int, dtype: str = "float32", **options: Any) -> App:
    """Return a model of one tensor `t`, which it answers as the output `y`."""
    metadata = Metadata("function", inputs=(TensorSpec("t", dtype, (-1, *shape)),))
    return create_zoo(
        lambda items: {"y": np.stack(items)}, input={"type": "tensor"}, metadata=metadata, **options
    )


async def post(app: App, body: Any, path: str = "/predict") -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await call(app, "POST", path, content=content)


def values(response: httpx.Response) -> list[Any]:
    """Return the `value` of each prediction, as text."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == TEXT
    return [json.loads(each)["value"] for each in response.json()["predictions"]]


# Serving guide, "RESTful API": requests as they stand there.
TENSORS = """{
  "instances" : [ {
    "ids" : [ 100.0, 88.0 ]
  }, {
    "ids" : [ 100.0, 88.0 ]
  } ]
}"""
MIXED = """{
  "instances" : [ {
    "intScalar" : 12345,
    "floatScalar" : 3.14159,
    "stringScalar" : "hello, world. hello, arrow.",
    "intTensor" : [ 7756, 9549, 1094, 9808, 4959, 3831, 3926, 6578, 1870, 1741 ],
    "stringTensor" : [ "come", "on", "united" ],
    "intTensor2" : [ [ 1, 2 ], [ 3, 4 ], [ 5, 6 ] ],
    "floatTensor2" : [ [ [ 0.2, 0.3 ], [ 0.5, 0.6 ] ], [ [ 0.2, 0.3 ], [ 0.5, 0.6 ] ] ]
  } ]
}"""
SPARSE = """{
  "instances" : [ {
    "sparseTensor" : {
      "shape" : [ 100, 10000, 10 ],
      "data" : [ 0.2, 0.5, 3.45, 6.78 ],
      "indices" : [ [ 1, 1, 1 ], [ 2, 2, 2 ], [ 3, 3, 3 ], [ 4, 4, 4 ] ]
    },
    "intTensor2" : [ [ 1, 2 ], [ 3, 4 ], [ 5, 6 ] ]
  } ]
}"""


async def test_the_answer_to_the_letter() -> None:
    response = await post(create_tensors(2), TENSORS.encode())
    prediction = r'"{\"value\":\"{\\\"data\\\":[100.0,88.0],\\\"shape\\\":[2]}\"}"'
    assert response.text == f'{{\n  "predictions" : [ {prediction}, {prediction} ]\n}}'
    assert response.headers["content-type"] == TEXT


@pytest.mark.parametrize("path", ["/predict", VERSION])
@pytest.mark.parametrize("shape", [(4,), (2, 3), (1, 2, 1, 2), ()])
async def test_a_tensor_comes_back_through_the_clients_decoder(
    path: str, shape: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, *shape)).astype(np.float32)
    body = {"instances": [{"t": first.tolist()}, {"anything": second.tolist()}]}
    response = await post(create_tensors(*shape), body, path)
    for index, tensor in enumerate([first, second]):
        found = http_json_to_ndarray(response.text, index)
        assert found.shape == shape
        np.testing.assert_array_equal(found.astype(np.float32), tensor)


async def test_integers_may_be_written_as_floats() -> None:
    response = await post(create_tensors(2, dtype="int32"), TENSORS.encode())
    assert http_json_to_ndarray(response.text).tolist() == [100, 88]
    refused = await post(create_tensors(2, dtype="int32"), {"instances": [{"ids": [100.5, 88.0]}]})
    assert refused.status_code == 400


async def test_a_number_is_an_array_of_one_where_the_model_takes_arrays() -> None:
    response = await post(create_tensors(1), {"instances": [{"intScalar": 12345}]})
    assert http_json_to_ndarray(response.text).tolist() == [12345]


def named(**shapes: tuple[str, tuple[int, ...]]) -> Metadata:
    specs = [TensorSpec(name, dtype, (-1, *shape)) for name, (dtype, shape) in shapes.items()]
    return Metadata("function", inputs=tuple(specs))


def sums(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the sum of each input, and of strings their lengths' sum."""

    def total(value: Any) -> float:
        return float(sum(map(len, value.ravel())) if value.dtype == object else value.sum())

    return {name: np.array([total(item[name]) for item in items]) for name in items[0]}


async def test_scalars_and_tensors_of_numbers_and_strings_by_name() -> None:
    metadata = named(
        intScalar=("int32", ()),
        floatScalar=("float32", (1,)),
        stringScalar=("string", (1,)),
        intTensor=("int64", (10,)),
        stringTensor=("string", (3,)),
        intTensor2=("float32", (3, 2)),
        floatTensor2=("float64", (2, 2, 2)),
    )
    app = create_zoo(sums, input={"type": "tensors"}, metadata=metadata)
    (value,) = values(await post(app, MIXED.encode()))
    instance = json.loads(MIXED)["instances"][0]
    expected = [
        12345,
        3.14159,
        len(instance["stringScalar"]),
        sum(instance["intTensor"]),
        len("comeonunited"),
        21,
        3.2,
    ]
    results = json.loads(value)
    assert [result["shape"] for result in results] == [[]] * 7
    assert [result["data"][0] for result in results] == pytest.approx(expected, rel=1e-6)


async def test_sparse_and_dense_tensors_by_name() -> None:
    metadata = named(sparseTensor=("float32", (100, 10000, 10)), intTensor2=("float32", (3, 2)))
    app = create_zoo(sums, input={"type": "tensors"}, metadata=metadata, warm_up=False)
    (value,) = values(await post(app, SPARSE.encode()))
    assert [result["data"][0] for result in json.loads(value)] == pytest.approx([10.93, 21])


async def test_dense_tensors_of_sparse_ones_are_bounded_for_the_whole_request() -> None:
    app = create_tensors(1000, limits={"max_body_mb": 0.006})
    sparse = {"shape": [1000], "data": [0.5], "indices": [[7]]}
    assert (await post(app, {"instances": [{"t": sparse}]})).status_code == 200
    response = await post(app, {"instances": [{"t": sparse}] * 2})
    assert response.status_code == 413
    assert "instances[1].t" in response.json()["error"]


async def test_images_in_base64_are_what_the_model_sees() -> None:
    pixels = cv2.resize(data.astronaut(), (8, 8))
    ok, encoded = cv2.imencode(".png", pixels[:, :, ::-1])
    assert ok
    app = create_zoo(
        lambda items: {"y": np.stack(items)}, input={"type": "image", "size": [8, 8], "scale": 0.5}
    )
    text = base64.b64encode(encoded.tobytes()).decode()
    body = {"instances": [{"image": text}, {"x": {"b64": text}}]}
    response = await post(app, body)
    for index in (0, 1):
        np.testing.assert_array_equal(http_json_to_ndarray(response.text, index), pixels * 0.5)


async def test_strings_and_lists_of_them() -> None:
    app = create_zoo(lambda items: [len(item) for item in items], input={"type": "string"})
    body = {"instances": [{"s": "hello"}, {"s": ["come", "on", "united"]}]}
    response = await post(app, body)
    assert http_json_to_ndarray(response.text, 0).tolist() == 5
    assert http_json_to_ndarray(response.text, 1).tolist() == [4, 2, 6]


async def test_a_packed_stream_is_one_instance_of_many_results() -> None:
    stream = base64.b64encode(b"\0\0\0\1a\0\0\0\2bc").decode()
    app = create_zoo(
        lambda items: [len(item) for item in items],
        input={"type": "bytes", "codec": "packed_jpeg"},
    )
    response = await post(app, {"instances": [{"images": stream}]})
    assert http_json_to_ndarray(response.text).tolist() == [1, 2]


async def test_a_whole_request_is_the_instance() -> None:
    app = create_zoo(lambda items: [len(item.body) for item in items], input={"type": "request"})
    response = await post(app, {"instances": [{"a": 1, "b": 2}, {"a": [1, 2]}]})
    assert http_json_to_ndarray(response.text, 0) == len('{"a":1,"b":2}')
    assert http_json_to_ndarray(response.text, 1) == len("[1,2]")


async def test_an_image_with_metadata_is_an_instance_of_several_names() -> None:
    app = create_zoo(
        lambda items: [item["threshold"] for item in items],
        input={"type": "bytes", "codec": "json_metadata"},
    )
    response = await post(app, {"instances": [{"data": "YQ==", "threshold": 0.5}]})
    assert http_json_to_ndarray(response.text) == 0.5


@pytest.mark.parametrize(
    ("result", "value"),
    [
        ("a cat", "a cat"),
        ({"a": [1]}, '{"a":[1]}'),
        (3, '{"data":[3.0],"shape":[]}'),
        (True, '{"data":[1.0],"shape":[]}'),
        ((640, 427), '{"data":[640.0,427.0],"shape":[2]}'),
        ([[1], [2, 3]], "[[1],[2,3]]"),
        (np.float64(0.1), '{"data":[0.1],"shape":[]}'),
        (np.zeros((2, 0)), '{"data":[],"shape":[2,0]}'),
        (np.array([np.nan, -np.inf, 1e-5]), '{"data":[NaN,-Infinity,0.00001],"shape":[3]}'),
        (1e300, '{"data":[1e+300],"shape":[]}'),
        (np.array([2**24, 2**24 + 1]), '{"data":[16777216,16777217],"shape":[2]}'),
        (np.uint64(2**64 - 1), '{"data":[18446744073709551615],"shape":[]}'),
        (["a", b"b"], '["a","b"]'),
        (b"\xff", '{"b64":"/w=="}'),
        (None, "null"),
        ("\ud800", "NaN"),
        (object(), "NaN"),
    ],
    ids=lambda each: "object" if type(each) is object else str(each),
)
async def test_results_are_float32_tensors_or_text(result: Any, value: str) -> None:
    app = create_zoo(lambda items: [result], input={"type": "string"})
    assert values(await post(app, {"instances": [{"s": "a"}]})) == [value]


async def test_several_outputs_are_a_list() -> None:
    outputs = {"a": np.ones((1, 2)), "b": np.array([3]), "c": np.array([b'"'], object)}
    app = create_zoo(lambda items: outputs, input={"type": "string"})
    (value,) = values(await post(app, {"instances": [{"s": "a"}]}))
    assert json.loads(value) == [
        {"data": [1, 1], "shape": [2]},
        {"data": [3], "shape": []},
        '"',
    ]


async def test_an_instance_on_which_the_model_fails_is_nan_and_the_others_are_not() -> None:
    def parse_all(items: Sequence[str]) -> list[int]:
        return [int(item) for item in items]

    model = create_model(parse_all, input={"type": "string"}, protocols=ZOO)
    body = {"instances": [{"s": "1"}, {"s": "two"}, {"s": "3"}]}
    response = await post(create_app(model), body)
    assert values(response)[1] == "NaN"
    assert http_json_to_ndarray(response.text, 0) == 1
    assert http_json_to_ndarray(response.text, 2) == 3
    assert model.recorder.defaults == {"error": 1}


async def test_the_form_of_0_9_is_a_java_map() -> None:
    old = {"cluster_serving": {"prediction": "map"}}
    app = create_tensors(2, protocol_settings=old)
    (prediction, _) = (await post(app, TENSORS.encode())).json()["predictions"]
    assert prediction == '{value={"data":[100.0,88.0],"shape":[2]}}'
    # protocols of that time: the client strips sets of characters, and so eats the brace.
    assert strip(prediction) == '"data":[100.0,88.0],"shape":[2]'


@pytest.mark.parametrize(("form", "expected"), [("map", "{value=%s}"), ("json", '{"value":"%s"}')])
async def test_post_processing_is_a_setting(form: str, expected: str) -> None:
    zoo = {"cluster_serving": {"prediction": form, "post_processing": "topN(1)"}}
    app = create_tensors(5, protocol_settings=zoo)
    response = await post(app, {"instances": [{"image": [3.0, 2, 1, 0.1306194, 5]}]})
    assert response.json()["predictions"] == [expected % "[[4,5.0]]"]
    if form == "map":
        assert strip(response.json()["predictions"][0]) == "[[4,5.0]]"


async def test_what_post_processing_cannot_take_is_nan() -> None:
    zoo = {"cluster_serving": {"post_processing": "pickTopN(2)"}}
    body = {"instances": [{"t": [[1.0, 2]]}]}
    assert values(await post(create_tensors(1, 2, protocol_settings=zoo), body)) == ["NaN"]
    app = create_zoo(lambda items: ["text"], input={"type": "string"}, protocol_settings=zoo)
    assert values(await post(app, {"instances": [{"t": "a"}]})) == ["NaN"]


def test_upstreams_own_cases_of_post_processing() -> None:
    # PostProcessingSpec.scala
    assert top_n(np.float32([3, 2, 1, 4, 5]), 2) == "[[4,5.0][3,4.0]]"
    assert pick_top_n(np.float32([[2, 2], [3, 3]]), 1) == "[[2.0,2.0]]"


def test_post_processing_of_other_shapes() -> None:
    assert top_n(np.float32([[1, 2], [0.5, 2]]), 3) == "[[1,2.0][3,2.0][0,1.0]]"
    assert top_n(np.float32([1]), 9) == "[[0,1.0]]"
    large = np.array([1, 2**64 - 1, 2**63], np.uint64)
    assert top_n(large, 2) == f"[[1,{2**64 - 1}][2,{2**63}]]"
    assert top_n(np.array([-(2**63), 5]), 2) == f"[[1,5][0,{-(2**63)}]]"
    assert pick_top_n(np.float32([[[2, 1e-5], [3, 3]]]), 2) == "[[2.0,1.0E-5][3.0,3.0]]"
    assert create_post_processing(None) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        # Java, Float.toString.
        (0, "0.0"),
        (-0.0, "-0.0"),
        (1, "1.0"),
        (100, "100.0"),
        (0.1306194, "0.1306194"),
        (0.001, "0.001"),
        (0.0009, "9.0E-4"),
        (1.5e-7, "1.5E-7"),
        (9999999, "9999999.0"),
        (1e7, "1.0E7"),
        (-1.25e10, "-1.25E10"),
        (3.4028235e38, "3.4028235E38"),
        (float("nan"), "NaN"),
        (float("-inf"), "-Infinity"),
    ],
)
def test_floats_are_written_as_java_does(value: float, text: str) -> None:
    assert float_text(np.float32(value)) == text


def test_json_is_laid_out_as_jackson_does() -> None:
    value = [{"a": 1, "b": {"c": ["x", 2.5]}}, {}, []]
    assert pretty(value) == (
        '[ {\n  "a" : 1,\n  "b" : {\n    "c" : [ "x", 2.5 ]\n  }\n}, {}, [ ] ]'
    )


NO_INSTANCE = "no instance can be found, please check your input or json(keyword should be "

FAULTS: dict[str, tuple[Any, str]] = {
    "no body": (b"", "not JSON"),
    "no JSON": (b"{", "not JSON"),
    "NaN": (b'{"instances": [{"t": NaN}]}', "not JSON"),
    "deep": (b"[" * 100_000, "nested too deeply"),
    "no object": ([], "expected an object"),
    "no instances": ({"inputs": [{"t": 1}]}, NO_INSTANCE),
    "none": ({"instances": []}, NO_INSTANCE),
    "null": ({"instances": None}, NO_INSTANCE),
    "one": ({"instances": {"t": [1, 2]}}, NO_INSTANCE),
    "a list": ({"instances": [[1, 2]]}, "expected an object of names and values, got list"),
    "an empty one": ({"instances": [{}]}, "instances[0]"),
    "two names": ({"instances": [{"t": [1, 2]}, {"t": [1, 2], "u": [1]}]}, "instances[1]"),
    "wrong shape": ({"instances": [{"t": [1, 2]}, {"t": [1, 2, 3]}]}, "instances[1].t"),
    "text": ({"instances": [{"t": "a"}]}, "instances[0].t"),
    "ragged": ({"instances": [{"t": [[1], [2, 3]]}]}, "instances[0].t"),
    "null value": ({"instances": [{"t": None}]}, "instances[0].t"),
    "an object": ({"instances": [{"t": {"a": 1}}]}, "instances[0].t"),
    "sparse": (
        {"instances": [{"t": {"shape": [2], "data": [1], "indices": [[5]]}}]},
        "instances[0].t.indices",
    ),
}


@pytest.mark.parametrize(("body", "details"), FAULTS.values(), ids=FAULTS)
async def test_a_fault_ends_in_an_example(body: Any, details: str) -> None:
    response = await post(create_tensors(2), body)
    assert response.status_code == 400
    assert response.headers["content-type"] == TEXT
    head, _, example = response.text.partition("\nPlease refer to examples:\n")
    assert head.startswith("Wrong content format.\nDetails: ")
    assert details in head
    assert set(json.loads(example)["instances"][0]) >= {"intScalar", "sparseTensor", "image"}


@pytest.mark.parametrize(("body", "details"), FAULTS.values(), ids=FAULTS)
async def test_a_fault_on_the_models_routes_is_a_runtime_error(body: Any, details: str) -> None:
    response = await post(create_tensors(2), body, VERSION)
    assert response.status_code == 405
    assert response.headers["content-type"] == TEXT
    assert response.headers["allow"] == "POST"
    assert response.text.startswith("Serving Runtime Error Err: ")
    assert details in response.text


@pytest.mark.parametrize(
    ("path", "missing", "known"),
    [
        ("/models/other", "Model Name: other", "Models: m"),
        ("/models/other/versions/1", "Model Name: other", "Models: m"),
        ("/models/m/versions/9", "Model Name: m, Model Version: 9", "Known: '1'"),
        ("/models/m/versions/9/predict", "Model Name: m, Model Version: 9", "Known: '1'"),
    ],
)
async def test_a_model_that_is_not_there(path: str, missing: str, known: str) -> None:
    method = "POST" if path.endswith("predict") else "GET"
    response = await call(create_tensors(2), method, path, content=b"")
    assert response.status_code == 404
    assert response.text == f"Model Not Found. Err: model not exist. {missing}. {known}"


async def test_limits_keep_the_statuses_of_http() -> None:
    app = create_tensors(2, limits={"max_items": 2, "max_body_mb": 0.001})
    many, large = {"instances": [{"t": [1, 2]}] * 3}, b" " * 2000
    for body in (many, large):
        response = await post(app, body)
        assert response.status_code == 413
        assert response.text.startswith('{\n  "error" : "')
        response = await post(app, body, VERSION)
        assert response.status_code == 413
        assert response.text.startswith("Serving Runtime Error Err: ")


async def test_a_late_prediction_and_a_model_that_is_not_ready_are_no_content_fault() -> None:
    gate = threading.Event()
    late = create_zoo(
        lambda items: gate.wait(20) and list(items),
        input={"type": "string"},
        deadline={"latency_ms": 30},
    )
    cold = create_zoo(echo, input={"type": "string"}, is_warm=False)
    body = {"instances": [{"s": "a"}]}
    for app, status in ((late, 504), (cold, 503)):
        response = await post(app, body)
        assert response.status_code == status
        assert list(response.json()) == ["error"]
        response = await post(app, body, VERSION)
        assert response.status_code == status
        assert response.text.startswith("Internal Error: ")
    assert response.headers["retry-after"] == "5"
    gate.set()


@pytest.mark.parametrize("protocols", [BOTH, BOTH[::-1]])
async def test_clipper_and_cluster_serving_share_a_path_in_either_order(
    protocols: list[str],
) -> None:
    app = create_zoo(
        lambda items: [len(item) for item in items],
        input={"type": "string"},
        protocols=protocols,
    )
    query = (await post(app, {"input": "abc"})).json()
    assert (query["output"], query["default"]) == (3, False)
    batch = (await post(app, {"input_batch": ["a", "bc"]})).json()
    assert [each["output"] for each in batch["batch_predictions"]] == [1, 2]
    response = await post(app, {"instances": [{"s": "abcd"}]})
    assert http_json_to_ndarray(response.text) == 4
    wrong = await post(app, {"input": 5})
    assert wrong.json()["error"] == "Json error"
    wrong = await post(app, {"instances": [{"s": 5}]})
    assert wrong.text.startswith("Wrong content format.")
    nobodys = await post(app, {"x": 5})
    assert nobodys.status_code == 400
    assert nobodys.text.startswith('{"error"' if protocols == BOTH else "Wrong content format.")


@pytest.mark.parametrize(
    ("protocol", "body"),
    [("clipper", {"instances": [{"s": "a"}]}), ("cluster_serving", {"input": "a"})],
)
async def test_what_the_other_protocol_would_take_is_a_fault_without_it(
    protocol: str, body: Any
) -> None:
    app = create_zoo(echo, input={"type": "string"}, protocols=[protocol])
    assert (await post(app, body)).status_code == 400


class TwoVersions(FunctionBackend):
    """Version 2 doubles its one number, version 1 returns it."""

    def __init__(self) -> None:
        super().__init__(echo)
        metadata = named(x=("float32", (1,)))
        self._versions = {
            version: {
                "serving_default": FunctionBackend(
                    lambda items, factor=int(version): {"y": np.stack(items) * factor}, metadata
                )
            }
            for version in ("2", "1")
        }

    def versions(self) -> Any:
        return self._versions


async def test_versions_are_described_and_asked() -> None:
    declared = {"input": {"type": "tensor"}, "protocols": ZOO, "batching": {"max_batch_size": 4}}
    model = Model(ModelSettings.model_validate(declared), TwoVersions(), name="m")
    model.load()
    model.warm_up()
    app = create_app(model)
    body = {"instances": [{"x": [3]}]}
    for path, answer in (("/predict", 6), (VERSION, 3), ("/models/m/versions/2/predict", 6)):
        assert http_json_to_ndarray((await post(app, body, path)).text).tolist() == [answer]
    everything = await call(app, "GET", "/models")
    assert everything.headers["content-type"] == TEXT
    assert everything.text.startswith('[ {\n  "type" : "ClusterServingMetaData",\n  "modelName" : ')
    assert [each["modelVersion"] for each in everything.json()] == ["2", "1"]
    assert (await call(app, "GET", "/models/m")).json() == everything.json()
    one = (await call(app, "GET", "/models/m/versions/1")).json()
    assert one == everything.json()[1]
    assert one["features"] == ["x", "tensor"]
    assert one["countWindow"] == 4
    # domains.scala, ClusterServingMetaData.
    assert list(one) == [
        "type",
        "modelName",
        "modelVersion",
        "redisHost",
        "redisPort",
        "redisInputQueue",
        "redisOutputQueue",
        "timeWindow",
        "countWindow",
        "tokenBucketEnabled",
        "tokensPerSecond",
        "redisSecureEnabled",
        "redisTrustStorePath",
        "redisTrustStoreToken",
        "inputCompileType",
        "features",
    ]
    assert one["redisTrustStoreToken"] == "*******"


async def test_metrics_are_a_list_of_timers_in_milliseconds() -> None:
    app = create_tensors(2)
    first = {each["name"]: each for each in (await call(app, "GET", "/metrics")).json()}
    assert first["zoo.serving.request.predict"]["count"] == 0
    for _ in range(3):
        await post(app, TENSORS.encode())
    response = await call(app, "GET", "/metrics")
    assert response.headers["content-type"] == TEXT
    timers = {each["name"]: each for each in response.json()}
    predict = timers["zoo.serving.request.predict"]
    assert predict["count"] == 3
    assert timers["zoo.serving.request.overall"]["count"] == 4
    assert timers["zoo.serving.request.metrics"]["count"] == 1
    assert predict["meanRate"] > 0
    assert predict["min"] <= predict["median"] <= predict["_999thPercentile"] <= predict["max"] + 1
    # domains.scala, ServingTimerMetrics.
    assert list(predict) == [
        "name",
        "count",
        "meanRate",
        "min",
        "max",
        "mean",
        "median",
        "stdDev",
        "_75thPercentile",
        "_95thPercentile",
        "_98thPercentile",
        "_99thPercentile",
        "_999thPercentile",
    ]


async def test_the_secret_of_an_encrypted_model_is_taken_and_dropped() -> None:
    app = create_tensors(2)
    response = await call(app, "POST", "/model-secure", content=b"secret=s3&salt=n4")
    assert response.status_code == 200
    assert response.text == "model secured secrect and salt succeed to put in redis"


@pytest.mark.parametrize("body", [b"", b"secret=a", b"secret=a&salt=", b"secret&salt", b"&"])
async def test_half_a_secret_is_refused(body: bytes) -> None:
    response = await call(create_tensors(2), "POST", "/model-secure", content=body)
    assert response.status_code == 400
    assert "please post a content like secret=xxx&salt=xxxx" in response.json()["error"]


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["b64", "shape", "data", "indices"]), inner, max_size=3)
    ),
    max_leaves=8,
)
SPARSES = st.fixed_dictionaries(
    {
        "shape": st.lists(st.integers(-1, 4) | st.integers(), max_size=3),
        "data": st.lists(st.integers() | st.floats(), max_size=3),
        "indices": st.lists(st.lists(st.integers(-1, 4), max_size=3), max_size=3),
    }
)
INSTANCES = st.dictionaries(st.sampled_from(["t", "u"]), VALUES | SPARSES, max_size=2)
BODIES = (
    st.binary(max_size=40)
    | VALUES.map(lambda body: json.dumps(body).encode())
    | st.fixed_dictionaries({"instances": st.lists(INSTANCES, max_size=3) | VALUES}).map(
        lambda body: json.dumps(body).encode()
    )
)


@pytest.mark.parametrize(
    ("kind", "codec"),
    [
        ("string", "raw"),
        ("string", "json_metadata"),
        ("bytes", "raw"),
        ("image", "packed_jpeg"),
        ("image", "raw"),
        ("integers", "raw"),
        ("doubles", "raw"),
        ("tensor", "raw"),
        ("tensors", "raw"),
        ("request", "raw"),
    ],
)
@pytest.mark.parametrize("path", ["/predict", VERSION])
def test_no_body_gets_an_unexpected_answer(path: str, kind: str, codec: str) -> None:
    metadata = None
    if kind.startswith("tensor"):
        names = ("t", "u") if kind == "tensors" else ("t",)
        metadata = named(**dict.fromkeys(names, ("int32", (2,))))
    app = create_zoo(
        lambda items: ["1"] * len(items),
        input={"type": kind, "codec": codec},
        metadata=metadata,
    )
    with asyncio.Runner() as runner:

        @settings(derandomize=True, deadline=None, max_examples=60, database=None)
        @given(BODIES)
        def check(body: bytes) -> None:
            response = runner.run(post(app, body, path))
            assert response.status_code in (200, 400, 405, 413)

        check()
