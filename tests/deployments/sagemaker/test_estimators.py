"""`:classify` and `:regress`, and the same over gRPC, for signatures as estimators export them."""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from deployments.sagemaker.model_server.model_server import ModelServer
from deployments.sagemaker.model_server.prediction_rest import PredictionRest
from deployments.sagemaker.model_server.prediction_service import PredictionService
from tests.deployments.packages import served
from tests.protocols import call

LABELS = [b"car", b"b\xc3\xbcs"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reads `x` (float), `text` (bytes) and `count` (int64) of each example.

    `regress` is x / 2 + 3, as in half_plus_three; `classify` scores two labels with x and the
    length of `text` times `count`; the others are of every wrong kind.
    """
    import tensorflow as tf

    v1 = tf.compat.v1
    features = {
        "x": v1.io.FixedLenFeature([], tf.float32, default_value=0.0),
        "text": v1.io.FixedLenFeature([], tf.string, default_value=""),
        "count": v1.io.FixedLenFeature([], tf.int64, default_value=1),
    }
    path = tmp_path_factory.mktemp("package") / "estimator" / "1"
    with v1.Graph().as_default(), v1.Session() as session:
        examples = v1.placeholder(tf.string, [None], "examples")
        parsed = v1.io.parse_example(examples, features)
        # As estimators do: an output of the parser itself cannot be fed (`raw`).
        x, count = tf.identity(parsed["x"]), tf.cast(parsed["count"], tf.float32)
        length = tf.cast(tf.strings.length(parsed["text"]), tf.float32)
        scores = tf.stack([x, length * count], axis=1)
        labels = tf.tile(tf.constant([LABELS]), [tf.size(x), 1])
        methods = v1.saved_model
        classify, regress = methods.classification_signature_def, methods.regression_signature_def
        signatures = {
            "serving_default": regress(examples, x / 2 + 3),
            "column": regress(examples, tf.expand_dims(x, 1)),
            "classify": classify(examples, labels, scores),
            "labels": classify(examples, labels, None),
            "scores": classify(examples, None, scores),
            "flat_scores": classify(examples, None, x),
            "unlike": classify(examples, labels[:, :1], scores),
            "fewer": classify(examples, labels[:1], None),
            "wide": regress(examples, scores),
            "whole": regress(examples, tf.zeros([3])),
            "raw": methods.predict_signature_def({"x": x}, {"y": x}),
        }
        builder = methods.Builder(str(path))
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map=signatures)
        builder.save()
    return path.parents[1]


@pytest.fixture(scope="module")
def models(model: Path) -> Iterator[ModelServer]:
    server = ModelServer(model)
    server.load()
    yield server
    server.close()


@pytest.fixture(scope="module")
def api(models: ModelServer) -> PredictionRest:
    return PredictionRest(models)


def post(api: PredictionRest, method: str, **document: Any) -> Any:
    return api.answer("POST", f"/v1/models/estimator:{method}", json.dumps(document))


# http_rest_api_handler_test.cc and the container's test_container.py for the numbers;
# json_tensor.cc, MakeJsonFromRegressionResult and MakeJsonFromClassificationResult, for the layout.
def test_regressions_are_answered_to_the_byte(api: PredictionRest) -> None:
    reply = post(api, "regress", examples=[{"x": [1.0]}, {"x": 2.0}, {}])
    assert (reply.status, reply.content_type) == (200, "application/json")
    assert reply.body.decode() == '{\n    "results": [3.5, 4.0, 3.0]\n}'
    column = post(api, "regress", signature_name="column", examples=[{"x": 0.1}])
    assert column.body.decode() == '{\n    "results": [0.1]\n}'


@pytest.mark.parametrize(
    ("signature", "first", "second"),
    [
        ("classify", '[["car", 0.5], ["büs", 4.0]]', '[["car", 0.0], ["büs", 6.0]]'),
        ("labels", '[["car", 0.0], ["büs", 0.0]]', '[["car", 0.0], ["büs", 0.0]]'),
        ("scores", '[["", 0.5], ["", 4.0]]', '[["", 0.0], ["", 6.0]]'),
    ],
)
def test_classes_are_answered_to_the_byte(
    api: PredictionRest, signature: str, first: str, second: str
) -> None:
    examples = [{"x": 0.5, "text": ["ab"], "count": 2}, {"text": {"b64": "YWJj"}, "count": [2]}]
    reply = post(api, "classify", signature_name=signature, examples=examples)
    assert reply.status == 200, reply.body
    assert reply.body.decode() == f'{{\n    "results": [{first}, {second}\n    ]\n}}'


def test_features_of_the_context_hold_for_examples_that_have_none(api: PredictionRest) -> None:
    reply = post(api, "regress", context={"x": 4.0}, examples=[{}, {"x": 2.0}, {"text": "a"}])
    assert json.loads(reply.body) == {"results": [5.0, 4.0, 5.0]}


def test_examples_are_tensorflows_own() -> None:
    import tensorflow as tf

    from rayserve_app.codecs.tensorflow.examples import read_examples, serialise

    content = {
        "f": [0.1, 1e10],
        "i": [1, -(2**63)],
        "s": ["ü", {"b64": "/w=="}],
        "b": True,
        "e": [],
    }
    (serialised,) = map(serialise, read_examples({"examples": [content]}))
    features = {
        "f": tf.train.Feature(float_list=tf.train.FloatList(value=[0.1, 1e10])),
        "i": tf.train.Feature(int64_list=tf.train.Int64List(value=[1, -(2**63)])),
        "s": tf.train.Feature(bytes_list=tf.train.BytesList(value=["ü".encode(), b"\xff"])),
        "b": tf.train.Feature(int64_list=tf.train.Int64List(value=[1])),
        "e": tf.train.Feature(),
    }
    expected = tf.train.Example(features=tf.train.Features(feature=features))
    assert tf.train.Example.FromString(serialised) == expected


ONE: dict[str, Any] = {"examples": [{"x": 1.0}]}


# json_tensor.cc, classifier.cc, regressor.cc.
@pytest.mark.parametrize(
    ("method", "document", "sentence"),
    [
        ("regress", {}, "When method is classify, key 'examples' is expected and was not found"),
        ("regress", {"examples": {}}, "Expecting 'examples' value to be an list/array"),
        ("regress", {"examples": []}, "'examples' value is an empty array"),
        ("regress", {"examples": [1]}, "Example must be JSON object but got JSON Number"),
        ("regress", ONE | {"context": []}, "Example must be JSON object but got JSON Array"),
        (
            "regress",
            {"examples": [{"x": [1.0, 2]}]},
            "Unexpected element type in feature: x expecting type: float",
        ),
        (
            "regress",
            {"examples": [{"x": [1, "a"]}]},
            "Unexpected element type in feature: x expecting type: int64",
        ),
        (
            "regress",
            {"examples": [{"x": ["a", True]}]},
            "Unexpected element type in feature: x expecting type: bytes",
        ),
        ("regress", {"examples": [{"x": None}]}, "element with unexpected JSON type: Null"),
        ("regress", {"examples": [{"x": [[1]]}]}, "element with unexpected JSON type: Array"),
        ("regress", {"examples": [{"x": {"a": 1}}]}, "element with unexpected JSON type: Object"),
        ("regress", {"examples": [{"x": {"b64": "%"}}]}, "Unable to base64 decode"),
        ("regress", {"examples": [{"x": 2**63}]}, "has uint64 element. Only int64 is supported."),
        ("regress", {"examples": [{"x": 1e300}]}, "to float without loss of precision."),
        ("regress", {"examples": [{"x": [1.0, 2.0]}]}, "Key: x"),
        ("regress", {"examples": [{"x": "a"}]}, "Data types don't match"),
        ("regress", ONE | {"signature_name": 1}, "'signature_name' key must be a string value."),
        ("regress", ONE | {"signature_name": "no"}, "No signature was found with the name: no"),
        (
            "regress",
            ONE | {"signature_name": "raw"},
            "Expected regression signature method_name to be tensorflow/serving/regress."
            " Was: tensorflow/serving/predict",
        ),
        (
            "classify",
            ONE,
            "Expected classification signature method_name to be tensorflow/serving/classify."
            " Was: tensorflow/serving/regress",
        ),
        (
            "classify",
            ONE | {"signature_name": "flat_scores"},
            "Expected Tensor shape: [batch_size num_classes] but got [1]",
        ),
        (
            "classify",
            ONE | {"signature_name": "unlike"},
            "Tensors class and score should match in dim_size(1). Got 1 vs. 2",
        ),
        (
            "classify",
            {"examples": [{}, {}], "signature_name": "fewer"},
            "Expected classes output batch size of 2. Got: 1",
        ),
        (
            "regress",
            ONE | {"signature_name": "wide"},
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got"
            " [1,2]",
        ),
        (
            "regress",
            ONE | {"signature_name": "whole"},
            "Input batch size did not match output batch size: 1 vs. 3",
        ),
    ],
)
def test_what_cannot_be_classified_is_told_as_upstream_tells_it(
    api: PredictionRest, method: str, document: dict[str, Any], sentence: str
) -> None:
    reply = post(api, method, **document)
    assert sentence in json.loads(reply.body)["error"]
    assert reply.status == 400


def test_a_signature_of_keras_is_none_of_the_two(half_plus_three: Path) -> None:
    """TensorFlow 2 exports `predict` signatures alone."""
    server = ModelServer(half_plus_three.parent)
    server.load()
    path = "/v1/models/half_plus_three:{}"
    for method in ("classify", "regress"):
        reply = PredictionRest(server).answer("POST", path.format(method), json.dumps(ONE))
        assert reply.status == 400
        assert "Was: tensorflow/serving/predict" in json.loads(reply.body)["error"]
    server.close()


# aws/sagemaker-tensorflow-serving-container, test/integration/local/test_container.py.
async def test_a_package_without_code_regresses_where_the_request_says_so(model: Path) -> None:
    headers = {
        "content-type": "application/json",
        "x-amzn-sagemaker-custom-attributes": "tfs-model-name=estimator,tfs-method=regress",
    }
    body = '{"signature_name": "column", "examples": [{"x": [3.5]}, {"x": 4.0}]}'
    with served(model) as app:
        response = await call(app, "POST", "/invocations", content=body, headers=headers)
    assert response.json() == {"results": [3.5, 4.0]}


class Apis:
    """Modules of `tensorflow-serving-api`, and a stub."""

    def __init__(self, port: int) -> None:
        for name in ("classification", "regression"):
            setattr(self, name, importlib.import_module(f"tensorflow_serving.apis.{name}_pb2"))
        services = importlib.import_module("tensorflow_serving.apis.prediction_service_pb2_grpc")
        self.channel = grpc.insecure_channel(f"localhost:{port}")
        self.stub = services.PredictionServiceStub(self.channel)


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


def example(x: float) -> Any:
    import tensorflow as tf

    feature = tf.train.Feature(float_list=tf.train.FloatList(value=[x]))
    return tf.train.Example(features=tf.train.Features(feature={"x": feature}))


def test_grpc_regresses(apis: Apis) -> None:
    request = apis.regression.RegressionRequest()
    request.model_spec.name = "estimator"
    request.input.example_list.examples.extend([example(1), example(2)])
    response = apis.stub.Regress(request)
    assert [each.value for each in response.result.regressions] == [3.5, 4.0]
    spec = response.model_spec
    assert (spec.name, spec.version.value) == ("estimator", 1)
    assert spec.signature_name == "serving_default"


def test_grpc_classifies_with_a_context(apis: Apis) -> None:
    import tensorflow as tf

    request = apis.classification.ClassificationRequest()
    request.model_spec.name = "estimator"
    request.model_spec.signature_name = "classify"
    given = request.input.example_list_with_context
    given.context.CopyFrom(example(0.25))
    given.examples.extend([tf.train.Example(), example(0.5)])
    classifications = apis.stub.Classify(request).result.classifications
    scores = [[(each.label, each.score) for each in row.classes] for row in classifications]
    assert scores == [[("car", 0.25), ("büs", 0.0)], [("car", 0.5), ("büs", 0.0)]]


def test_grpc_says_that_there_are_no_examples(apis: Apis) -> None:
    request = apis.regression.RegressionRequest()
    request.model_spec.name = "estimator"
    with pytest.raises(grpc.RpcError, match="Input is empty") as error:
        apis.stub.Regress(request)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
