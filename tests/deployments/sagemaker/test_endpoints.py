"""The endpoints of TensorFlow Serving that handlers of a package call: REST and gRPC."""

from __future__ import annotations

import importlib
import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.sagemaker.model_server import tensor_message
from deployments.sagemaker.model_server.model_server import ModelServer
from deployments.sagemaker.model_server.prediction_rest import PredictionRest, RestServer
from deployments.sagemaker.model_server.prediction_service import PredictionService
from rayserve_app.codecs.tensorflow import reply as replies


@pytest.fixture(scope="module")
def models(
    half_plus_three: Path, named: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ModelServer]:
    package = tmp_path_factory.mktemp("package")
    for model in (half_plus_three, named):
        shutil.copytree(model, package / model.name)
    server = ModelServer(package)
    server.load()
    yield server
    server.close()


@pytest.fixture(scope="module")
def api(models: ModelServer) -> PredictionRest:
    return PredictionRest(models)


HALF = "/v1/models/half_plus_three:predict"
NAMED = "/v1/models/named:predict"
ROW = '{"numbers": [1, 2], "text": "a"}'


# Expected texts: api_rest.md, and the golden answers of the container's tests.
@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        (HALF, '{"instances": [1.0, 2.0, 5.0]}', "[3.5, 4.0, 5.5\n    ]"),
        (HALF, '{"instances": [[1, 2], [3, 4]]}', "[[3.5, 4.0], [4.5, 5.0]\n    ]"),
        (HALF, '{"instances": [NaN, Infinity, -Infinity]}', "[NaN, Infinity, -Infinity\n    ]"),
        ("/V1/Models/half_plus_three/Versions/123:Predict?x", '{"instances": [1]}', "[3.5\n    ]"),
        (
            NAMED,
            '{"instances": [{"numbers": [1, 2], "text": {"b64": "/w=="}}, ' + ROW + "]}",
            "[\n        {\n"
            '            "length": 1,\n'
            '            "text_bytes": {\n                "b64": "/w=="\n            },\n'
            '            "total": 3.0\n'
            "        },\n        {\n"
            '            "length": 1,\n'
            '            "text_bytes": {\n                "b64": "YQ=="\n            },\n'
            '            "total": 3.0\n'
            "        }\n    ]",
        ),
        (
            NAMED,
            '{"signature_name": "length", "instances": ["größe", {"b64": "YQ=="}]}',
            "[7, 1\n    ]",
        ),
    ],
)
def test_rows_are_answered_to_the_byte(
    api: PredictionRest, path: str, body: str, answer: str
) -> None:
    reply = api.answer("POST", path, body)
    assert (reply.status, reply.content_type) == (200, "application/json")
    assert reply.text == f'{{\n    "predictions": {answer}\n}}'


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        (
            HALF,
            '{"inputs": [[1.0], [2.0]]}',
            '"outputs": [\n        [\n            3.5\n        ],\n        [\n            4.0\n'
            "        ]\n    ]",
        ),
        (
            NAMED,
            '{"inputs": {"numbers": [[1, 2]], "text": ["a"]}}',
            '"outputs": {\n        "length": [\n            1\n        ],\n'
            '        "text_bytes": [\n'
            '            {\n                "b64": "YQ=="\n            }\n        ],\n'
            '        "total": [\n            3.0\n        ]\n    }',
        ),
    ],
)
def test_columns_are_answered_to_the_byte(
    api: PredictionRest, path: str, body: str, answer: str
) -> None:
    assert api.answer("POST", path, body).text == f"{{\n    {answer}\n}}"


# json_tensor.cc, http_rest_api_handler.cc, server_core.cc.
@pytest.mark.parametrize(
    ("method", "path", "body", "status", "sentence"),
    [
        ("POST", HALF, "", 400, "JSON Parse error: The document is empty"),
        ("POST", HALF, "{x", 400, "JSON Parse error: Invalid value. at offset: 1"),
        ("POST", HALF, "[" * 100_000, 400, "JSON is nested too deeply: expected at most 64 levels"),
        ("POST", HALF, b"\xff", 400, "JSON Parse error: Invalid value. at offset: 0"),
        ("POST", HALF, "[1]", 400, "Is not object"),
        ("POST", HALF, "{}", 400, "Missing 'inputs' or 'instances' key"),
        ("POST", HALF, '{"inputs": 1, "instances": 1}', 400, "expecting only one of 'inputs' or"),
        ("POST", HALF, '{"instances": 1}', 400, "Excepting 'instances' to be an list/array"),
        ("POST", HALF, '{"instances": []}', 400, "No values in 'instances' array"),
        ("POST", HALF, '{"instances": [1], "signature_name": 1}', 400, "must be a string value."),
        (
            "POST",
            HALF,
            '{"instances": [1], "signature_name": "x"}',
            400,
            'Serving signature name: "x" not found in signature def',
        ),
        ("POST", HALF, '{"instances": [1, [2]]}', 400, "Expecting shape [] but got: [1]"),
        ("POST", HALF, '{"instances": [[1], [2, 3]]}', 400, "Expecting tensor size: 1 but got: 2"),
        (
            "POST",
            HALF,
            '{"instances": [[[1], [2, 3]]]}',
            400,
            "Encountered list at unexpected size: 2 at level: 1 expected size: 1",
        ),
        ("POST", HALF, '{"instances": [[[1], 2]]}', 400, "found at incorrect level: 2 in the JSON"),
        ("POST", HALF, '{"instances": [[1, [2]]]}', 400, "Encountered list at unexpected level: 1"),
        ("POST", HALF, '{"instances": [1, {"x": 1}]}', 400, "but got object at item 1 of input"),
        ("POST", HALF, '{"instances": [true]}', 400, "Type: True is not of expected type: float"),
        ("POST", HALF, '{"instances": [null]}', 400, "Type: Null is not of expected type: float"),
        ("POST", HALF, '{"instances": [{"y": 1}]}', 400, "does not have named input: y"),
        ("POST", HALF, '{"instances": [{"x": 1}, {}]}', 400, "keys must be equal to: x"),
        ("POST", NAMED, '{"instances": [1]}', 400, "instances is a plain list, but expecting list"),
        ("POST", NAMED, '{"inputs": [1]}', 400, "inputs is a plain value/list, but expecting an"),
        ("POST", NAMED, '{"inputs": {"text": 1}}', 400, "Missing named input: numbers in 'inputs'"),
        (
            "POST",
            NAMED,
            '{"signature_name": "length", "instances": [{"b64": "%"}]}',
            400,
            "Unable to base64 decode",
        ),
        ("POST", NAMED, '{"instances": [' + ROW.replace("2]", "2, 3]") + "]}", 400, "numbers"),
        ("POST", "/v1/models/other:predict", "{}", 404, "Servable not found for request: Latest"),
        (
            "POST",
            "/v1/models/named/versions/5:predict",
            "{}",
            404,
            "Servable not found for request: Specific(named, 5)",
        ),
        (
            "POST",
            "/v1/models/named/labels/stable%20one:predict",
            "{}",
            400,
            "Unrecognized servable version label: stable one",
        ),
        ("GET", "/v1/models/named/labels/x", "", 400, "Unrecognized servable version label: x"),
        (
            "GET",
            "/v1/models/named/labels/x/metadata",
            "",
            400,
            "Unrecognized servable version label: x",
        ),
        (
            "GET",
            f"/v1/models/named/versions/{2**63}",
            "",
            400,
            f"Failed to convert version: {2**63} to numeric.",
        ),
        ("GET", f"/v1/models/named/versions/{'1' * 5000}", "", 400, "to numeric."),
        ("POST", HALF, f'{{"instances": [{"1" * 5000}]}}', 400, "JSON Parse error: Invalid value."),
        ("POST", HALF, r'{"instances": ["\ud800"]}', 400, "JSON Parse error: Invalid value."),
        ("POST", "/v1/foo", "", 400, "Malformed request: POST /v1/foo"),
        ("POST", "/v1/models/named", "", 400, "Malformed request: POST /v1/models/named"),
        ("GET", "/v1/models", "", 400, "Missing model name in request."),
        ("GET", HALF, "", 400, f"Malformed request: GET {HALF}"),
    ],
)
def test_a_request_that_fails_is_told_as_upstream_tells_it(
    api: PredictionRest, method: str, path: str, body: str | bytes, status: int, sentence: str
) -> None:
    reply = api.answer(method, path, body)
    assert sentence in json.loads(reply.body)["error"]
    assert reply.status == status


def test_status_and_metadata(api: PredictionRest) -> None:
    available = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    status = json.loads(api.answer("GET", "/v1/models/named").body)
    assert status == {
        "model_version_status": [{"version": number, **available} for number in ("11", "2")]
    }
    one = json.loads(api.answer("GET", "/v1/models/named/versions/2").body)
    assert one == {"model_version_status": [{"version": "2", **available}]}
    metadata = json.loads(api.answer("GET", "/v1/models/named/metadata").body)
    assert metadata["model_spec"] == {"name": "named", "signature_name": "", "version": "11"}
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    numbers = signatures["serving_default"]["inputs"]["numbers"]
    assert numbers["dtype"] == "DT_FLOAT"
    assert [dim["size"] for dim in numbers["tensor_shape"]["dim"]] == ["-1", "2"]


def written(array: Any) -> str:
    text = replies.render_predictions({"y": array}).decode()
    return text.removeprefix('{\n    "predictions": [').removesuffix("\n    ]\n}")


# printf("%g"), or "%.9g" and "%.17g" where that is another number; absl::StrCat.
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float32(0.1), "0.1"),
        (np.float32(1 / 3), "0.333333343"),
        (np.float32(9_000_000), "9e+06"),
        (np.float32(0.00003), "3e-05"),
        (np.float32(16_777_216), "16777216.0"),
        (np.float32(-0.0), "-0.0"),
        (np.float32(3.4028235e38), "3.40282347e+38"),
        (np.float64(0.1), "0.1"),
        (np.float64(1 / 3), "0.33333333333333331"),
        (np.float64(1e300), "1e+300"),
        (np.float16(0.1), "0.0999755859"),
        (np.int64(-(2**62)), "-4611686018427387904"),
        (np.uint8(255), "255"),
        (np.bool_(True), "true"),
    ],
)
def test_numbers_are_those_that_upstream_writes(value: Any, text: str) -> None:
    """With fewer digits, where six do not tell a float."""
    kind = type(value)
    assert kind(json.loads(written(np.array([value])))) == kind(json.loads(text)) == value


@settings(derandomize=True, database=None)
@given(st.lists(st.floats(width=32), min_size=1))
def test_every_float_is_read_back_as_it_was(values: list[float]) -> None:
    array = np.array(values, np.float32)
    read = json.loads(replies.render_predictions({"y": array}))["predictions"]
    np.testing.assert_array_equal(np.array(read, np.float32), array)


def encoded(array: Any) -> bytes:
    return b"".join(tensor_message.encode(array))


@pytest.mark.parametrize("shape", [(0,), (3,), (), (2, 3), (1, 0, 2)])
@pytest.mark.parametrize(
    "dtype",
    [
        *("float16", "float32", "float64", "bool", "int8", "int16", "int32", "int64"),
        *("uint8", "uint16", "uint32", "uint64", "complex64"),
    ],
)
def test_tensors_are_tensorflows_own(dtype: str, shape: tuple[int, ...]) -> None:
    import tensorflow as tf
    from tensorflow.core.framework.tensor_pb2 import TensorProto

    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    message = TensorProto.FromString(encoded(array))
    np.testing.assert_array_equal(tf.make_ndarray(message), array, strict=True)
    assert dtype == "complex64" or not message.tensor_content
    sent = tf.make_tensor_proto(array).SerializeToString()
    np.testing.assert_array_equal(tensor_message.decode(sent), array, strict=True)


def test_strings_are_bytes() -> None:
    import tensorflow as tf

    array = np.array([[b"a\0", b""]], object)
    np.testing.assert_array_equal(tensor_message.decode(encoded(array)), array)
    sent = tf.make_tensor_proto(["größe"]).SerializeToString()
    assert tensor_message.decode(sent).tolist() == ["größe".encode()]


def test_one_value_fills_a_tensor() -> None:
    import tensorflow as tf
    from tensorflow.core.framework.tensor_pb2 import TensorProto

    shape = tf.TensorShape([2, 2]).as_proto()
    message = TensorProto(dtype=tf.float32.as_datatype_enum, tensor_shape=shape, float_val=[1, 2])
    array = tensor_message.decode(message.SerializeToString())
    np.testing.assert_array_equal(array, np.array([[1, 2], [2, 2]], np.float32), strict=True)


class Apis:
    """The modules of `tensorflow-serving-api`, and stubs that are connected."""

    def __init__(self, port: int) -> None:
        names = ("predict", "get_model_metadata", "get_model_status")
        for name in names:
            setattr(self, name, importlib.import_module(f"tensorflow_serving.apis.{name}_pb2"))
        self.channel = grpc.insecure_channel(f"0.0.0.0:{port}")
        for name in ("prediction", "model"):
            module = importlib.import_module(f"tensorflow_serving.apis.{name}_service_pb2_grpc")
            setattr(self, name, getattr(module, f"{name.title()}ServiceStub")(self.channel))


@pytest.fixture(scope="module")
def apis(models: ModelServer, serving_api: Path) -> Iterator[Apis]:
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.syspath_prepend(str(serving_api))
        service = PredictionService(models)
        connected = Apis(service.port)
        yield connected
        connected.channel.close()
        service.close()


def predict(
    apis: Apis,
    name: str,
    *,
    version: int = 0,
    label: str = "",
    signature: str = "",
    **inputs: Any,
) -> Any:
    import tensorflow as tf

    request = apis.predict.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    if version:
        request.model_spec.version.value = version
    if label:
        request.model_spec.version_label = label
    for key, value in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    return request


def test_grpc_predicts(apis: Apis) -> None:
    import tensorflow as tf

    numbers = np.array([[1, 2], [3, 4]], np.float32)
    response = apis.prediction.Predict(predict(apis, "named", numbers=numbers, text=["a", "bc"]))
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("named", 11, "serving_default")
    assert list(response.outputs["total"].float_val) == [3, 7]
    assert list(response.outputs["text_bytes"].string_val) == [b"a", b"bc"]
    assert list(response.outputs["length"].int_val) == [1, 2]
    request = predict(apis, "named", version=2, signature="length", text=["abc"])
    response = apis.prediction.Predict(request)
    assert (response.model_spec.version.value, response.model_spec.signature_name) == (2, "length")
    assert tf.make_ndarray(response.outputs["length"]).tolist() == [3]


def test_grpc_answers_each_output_as_the_graph_gives_it(apis: Apis) -> None:
    """Axes are the graph's: TensorFlow Serving does not ask which of them is the batch."""
    request = predict(apis, "named", numbers=np.ones((3, 2), np.float32), text=["a"])
    outputs = apis.prediction.Predict(request).outputs
    assert list(outputs["total"].float_val) == [2, 2, 2]
    assert list(outputs["length"].int_val) == [1]
    empty = predict(apis, "named", numbers=np.ones((0, 2), np.float32), text=["a"])
    total = apis.prediction.Predict(empty).outputs["total"]
    assert [dim.size for dim in total.tensor_shape.dim] == [0]


def test_grpc_answers_only_the_outputs_asked_for(apis: Apis) -> None:
    request = predict(apis, "named", numbers=[[1.0, 2.0]], text=["a"])
    request.output_filter.extend(["total", "length"])
    assert sorted(apis.prediction.Predict(request).outputs) == ["length", "total"]


def test_grpc_takes_messages_of_any_size(apis: Apis) -> None:
    size = 2_000_000  # float32: 8 MB, twice what gRPC takes unless it is told otherwise
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    request = predict(apis, "half_plus_three", x=np.zeros((1, size), np.float32))
    stub_of = type(apis.prediction)
    target = apis.channel._channel.target().decode()
    with grpc.insecure_channel(target, options=options) as channel:
        response = stub_of(channel).Predict(request, timeout=60)
    assert len(response.outputs["y"].float_val) == size


@pytest.mark.parametrize(
    ("request_of", "code", "sentence"),
    [
        ({"name": "x", "x": [1.0]}, "NOT_FOUND", "Servable not found for request: Latest(x)"),
        (
            {"name": "named", "version": 5, "x": [1.0]},
            "NOT_FOUND",
            "Servable not found for request: Specific(named, 5)",
        ),
        (
            {"name": "named", "signature": "no", "x": [1.0]},
            "FAILED_PRECONDITION",
            'Serving signature key "no" not found.',
        ),
        (
            {"name": "named", "numbers": [[1.0, 2.0]]},
            "INVALID_ARGUMENT",
            "input size does not match signature: 1!=2 len({numbers}) != len({numbers,text}). Sent"
            " extra: {}. Missing but required: {text}.",
        ),
        (
            {"name": "named", "numbers": [[1.0]], "text": ["a"]},
            "INVALID_ARGUMENT",
            "expected float32 (-1, 2), got float32 (1, 1) - at `numbers`",
        ),
        (
            {"name": "named", "label": "stable", "x": [1.0]},
            "INVALID_ARGUMENT",
            "Unrecognized servable version label: stable",
        ),
    ],
)
def test_grpc_says_what_is_wrong(
    apis: Apis, request_of: dict[str, Any], code: str, sentence: str
) -> None:
    with pytest.raises(grpc.RpcError) as error:
        apis.prediction.Predict(predict(apis, request_of.pop("name"), **request_of))
    assert error.value.code().name == code
    assert sentence in error.value.details()


def test_grpc_refuses_outputs_that_there_are_not(apis: Apis) -> None:
    for outputs, sentence in ((["x"], "not found in signature: x"), (["total"] * 2, "duplicate")):
        request = predict(apis, "named", numbers=[[1.0, 2.0]], text=["a"])
        request.output_filter.extend(outputs)
        with pytest.raises(grpc.RpcError, match=sentence):
            apis.prediction.Predict(request)


def test_grpc_describes_signatures(apis: Apis) -> None:
    request = apis.get_model_metadata.GetModelMetadataRequest()
    request.model_spec.name = "named"
    request.metadata_field.append("signature_def")
    response = apis.prediction.GetModelMetadata(request)
    assert response.model_spec.version.value == 11
    signatures = apis.get_model_metadata.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert {"serving_default", "length"} <= set(signatures.signature_def)
    assert sorted(signatures.signature_def["serving_default"].inputs) == ["numbers", "text"]


def test_grpc_tells_which_versions_answer(apis: Apis) -> None:
    request = apis.get_model_status.GetModelStatusRequest()
    request.model_spec.name = "named"
    status = apis.model.GetModelStatus(request).model_version_status
    available = apis.get_model_status.ModelVersionStatus.AVAILABLE
    assert [(each.version, each.state) for each in status] == [(11, available), (2, available)]
    request.model_spec.version.value = 2
    status = apis.model.GetModelStatus(request).model_version_status
    assert [each.version for each in status] == [2]


def test_rest_is_served_on_the_loopback_interface_alone(models: ModelServer) -> None:
    server = RestServer(PredictionRest(models))
    url = f"http://localhost:{server.port}{HALF}"
    body = b'{"instances": [1.0]}'
    try:
        assert server._server.server_address[0] == "127.0.0.1"
        with requests.Session() as session:
            for data in (body, iter([body[:5], body[5:]])):
                response = session.post(url, data=data, timeout=10)
                assert response.json() == {"predictions": [3.5]}
                assert response.headers["content-type"] == "application/json"
            assert session.get(url, timeout=10).status_code == 400
    finally:
        server.close()
