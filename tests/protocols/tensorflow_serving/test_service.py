"""TensorFlow Serving's REST API, on models of every kind of input."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rayserve_app.app import App, create_app
from rayserve_app.gateway.app import Gateway
from rayserve_app.gateway.replicas import Address, Directory, ServedModel
from rayserve_app.gateway.settings import GatewaySettings
from rayserve_app.protocols.tensorflow_serving import TensorFlowServing
from rayserve_app.settings.protocols import PROTOCOLS
from rayserve_app.types import Invocation, Reply, TensorSpec
from tests.protocols import call, create_model
from tests.protocols.tensorflow_serving.half_model import (
    BOTH,
    CLASSIFY,
    PIXELS,
    PNG,
    REGRESS,
    STANDARD,
    create,
    encoded,
    noting,
    post,
    refused,
)

PREDICT = "/v1/models/m:predict"
X = TensorSpec("x", "float32", (-1,))


def create_half(**options: Any) -> App:
    """Return the app of the documentation's model, y = x / 2 + 3, as version 123."""

    def half_plus_three(items: Sequence[Any]) -> dict[str, Any]:
        return {"y": (np.stack(items) / 2 + 3).astype(np.float32)}

    defaults = {"input": {"type": "tensor"}, "version": "123"}
    return create(half_plus_three, [X], **(defaults | options))


async def predict(app: App, **document: Any) -> Any:
    """Return the answer's value."""
    response = await post(app, PREDICT, document)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    (value,) = json.loads(response.content).values()
    return value


# api_rest.md, "Example", and http_rest_api_handler_test.cc.


async def test_the_predictions_of_the_documentation() -> None:
    response = await post(create_half(), PREDICT, b'{"instances": [1.0,2.0,5.0]}')
    assert response.status_code == 200
    assert response.content == b'{\n    "predictions": [3.5, 4.0, 5.5\n    ]\n}'
    assert int(response.headers["content-length"]) == len(response.content)


async def test_columns_are_answered_in_columns() -> None:
    response = await post(create_half(), PREDICT, b'{"inputs": [3.0, 4.0]}')
    assert response.content == b'{\n    "outputs": [\n        4.5,\n        5.0\n    ]\n}'
    assert await predict(create_half(), inputs={"x": [3.0]}) == [4.5]
    assert await predict(create_half(), inputs=3.0) == 4.5


async def test_rows_may_name_the_input() -> None:
    app = create_half()
    assert await predict(app, instances=[{"x": 1.0}, {"x": 2.0}]) == [3.5, 4]
    assert await predict(app, signature_name="serving_default", instances=[1]) == [3.5]
    assert await predict(app, signature_name="", instances=[1], other=[]) == [3.5]


async def test_the_content_type_plays_no_part() -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "image/jpeg"):
        response = await post(
            create_half(), PREDICT, b'{"instances": [1]}', content_type=content_type
        )
        assert response.json() == {"predictions": [3.5]}


async def test_nan_and_infinity_go_both_ways() -> None:
    response = await post(create_half(), PREDICT, b'{"instances": [NaN, -Infinity, Infinity]}')
    assert response.content == (b'{\n    "predictions": [NaN, -Infinity, Infinity\n    ]\n}')


async def test_a_body_may_be_compressed() -> None:
    body = gzip.compress(b'{"instances": [1.0]}')
    response = await post(create_half(), PREDICT, body, content_encoding="gzip")
    assert response.json() == {"predictions": [3.5]}
    bomb = gzip.compress(b" " * 3_000_000)
    limited = create_half(limits={"max_body_mb": 1})
    response = await post(limited, PREDICT, bomb, content_encoding="gzip")
    assert response.status_code == 413
    assert "at most 1000000 bytes" in response.json()["error"]


async def test_the_regression_of_the_documentation() -> None:
    body = b'{"examples": [{"x": 1.0}, {"x": 2.0}]}'
    response = await post(create_half(), REGRESS, body)
    assert response.content == b'{\n    "results": [3.5, 4.0]\n}'
    body = b'{"context": {"x": [3.0]}, "examples": [{}, {"x": 2.0, "caption": "seaside"}]}'
    assert (await post(create_half(), REGRESS, body)).json() == {"results": [4.5, 4.0]}


async def test_the_status_of_the_documentation() -> None:
    status = (
        "{\n"
        ' "model_version_status": [\n'
        "  {\n"
        '   "version": "123",\n'
        '   "state": "AVAILABLE",\n'
        '   "status": {\n'
        '    "error_code": "OK",\n'
        '    "error_message": ""\n'
        "   }\n"
        "  }\n"
        " ]\n"
        "}\n"
    )
    for path in ("", "/versions/123", "/versions/00000123"):
        response = await call(create_half(), "GET", f"/v1/models/m{path}")
        assert (response.status_code, response.text) == (200, status)
        assert response.headers["content-type"] == "application/json"


async def test_a_model_that_warms_up_is_loading() -> None:
    app = create_half(is_warm=False)
    response = await call(app, "GET", "/v1/models/m")
    assert response.json()["model_version_status"][0]["state"] == "LOADING"
    assert "warming up" in await refused(app, PREDICT, {"instances": [1]}, status=503)


async def test_the_metadata_are_signature_definitions() -> None:
    app = create_half(outputs=(TensorSpec("y", "float32", (-1, 3)),))
    for path in ("", "/versions/123"):
        response = await call(app, "GET", f"/v1/models/m{path}/metadata")
        assert response.status_code == 200
        assert response.text.startswith(
            '{\n"model_spec":{\n "name": "m",\n "signature_name": "",\n "version": "123"\n}\n,\n'
            '"metadata": {"signature_def": {\n "signature_def": {\n  "serving_default": {\n'
        )
        (definition,) = response.json()["metadata"]["signature_def"]["signature_def"].values()
        assert definition == {
            "inputs": {"x": tensor_info("x", "DT_FLOAT", -1)},
            "outputs": {"y": tensor_info("y", "DT_FLOAT", -1, 3)},
            "method_name": "tensorflow/serving/predict",
        }


def tensor_info(name: str, dtype: str, *sizes: int) -> dict[str, Any]:
    dims = [{"size": str(size), "name": ""} for size in sizes]
    return {
        "dtype": dtype,
        "tensor_shape": {"dim": dims, "unknown_rank": not sizes},
        "name": f"{name}:0",
    }


@pytest.mark.parametrize(
    ("declared", "specs", "inputs"),
    [
        ({"type": "image"}, (), {"image": tensor_info("image", "DT_STRING", -1)}),
        (
            {"type": "image"},
            (TensorSpec("data", "float32", (-1, 3, 8, 8)),),
            {"data": tensor_info("data", "DT_STRING", -1)},
        ),
        ({"type": "string"}, (), {"string": tensor_info("string", "DT_STRING", -1)}),
        ({"type": "doubles"}, (), {"doubles": tensor_info("doubles", "DT_DOUBLE", -1, -1)}),
        ({"type": "tensor"}, (), {"tensor": tensor_info("tensor", "DT_INVALID")}),
        (
            {"type": "tensor", "dtype": "uint8", "shape": [2]},
            (),
            {"tensor": tensor_info("tensor", "DT_UINT8", -1, 2)},
        ),
    ],
)
async def test_the_metadata_say_what_a_client_has_to_send(
    declared: Any, specs: Sequence[TensorSpec], inputs: Any
) -> None:
    app = create(lambda items: [0] * len(items), specs, input=declared)
    response = await call(app, "GET", "/v1/models/m/metadata")
    (definition,) = response.json()["metadata"]["signature_def"]["signature_def"].values()
    assert (definition["inputs"], definition["outputs"]) == (inputs, {})


async def test_labels_are_names_of_versions() -> None:
    app = create_half(
        protocol_settings={"tensorflow_serving": {"version_labels": {"stable": "123", "old": "7"}}}
    )
    body = {"instances": [1.0]}
    labelled = "/v1/models/m/labels/{}"
    response = await post(app, labelled.format("stable:predict"), body)
    assert response.json() == {"predictions": [3.5]}
    for path in ("stable", "stable/metadata"):
        assert (await call(app, "GET", labelled.format(path))).status_code == 200
    sentence = await refused(app, labelled.format("none:predict"), body)
    assert sentence == "Unrecognized servable version label: none"
    sentence = await refused(app, labelled.format("old:predict"), body, status=404)
    assert sentence == "Servable not found for request: Specific(m, 7)"


ONE = {"instances": [1]}


@pytest.mark.parametrize(
    ("path", "body", "status", "sentence"),
    [
        ("half:predict", ONE, 404, "Servable not found for request: Latest(half). Models: m"),
        (
            "half/versions/5:predict",
            ONE,
            404,
            "Servable not found for request: Latest(half). Models: m",
        ),
        ("m/versions/9:predict", ONE, 404, "Servable not found for request: Specific(m, 9)"),
        (
            "m/versions/some_label:regress",
            ONE,
            400,
            "Malformed request: POST /v1/models/m/versions/some_label:regress",
        ),
        (
            f"m/versions/{2**64 - 1}:regress",
            ONE,
            400,
            f"Failed to convert version: {2**64 - 1} to numeric.",
        ),
        ("m:predict", b"", 400, "JSON Parse error: The document is empty"),
        ("m:predict", b"instances = [1, 2]", 400, "JSON Parse error: Invalid value. at offset: 0"),
        (
            "m:predict",
            {"instances": ["x", "y"]},
            400,
            "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: "
            'JSON Value: "x" Type: String is not of expected type: float',
        ),
        (
            "m:predict",
            {"signature_name": 100},
            400,
            'JSON Value: {\n    "signature_name": 100\n} not formatted correctly.'
            " 'signature_name' key must be a string value.",
        ),
        (
            "m:predict",
            {"signature_name": "x", "instances": [1]},
            400,
            'Serving signature name: "x" not found in signature def',
        ),
        ("m:predict", {}, 400, "Missing 'inputs' or 'instances' key"),
        ("m:predict", {"inputs": []}, 400, "No values in 'inputs'"),
        (
            "m:regress",
            {"examples": [{"z": 1.0}]},
            400,
            "Feature: x is required but could not be found. - at `examples[0]`",
        ),
        (
            "m:regress",
            {"examples": [{"x": 1.0}, {"x": {"b64": "YQ=="}}]},
            400,
            'JSON Value: {\n    "b64": "YQ=="\n} Type: Object is not of expected type: float'
            " - at `examples[1]`",
        ),
    ],
)
async def test_errors_are_upstreams(path: str, body: Any, status: int, sentence: str) -> None:
    assert await refused(create_half(), f"/v1/models/{path}", body, status) == sentence


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("", 400, "Missing model name in request."),
        ("/half", 404, "Servable not found for request: Latest(half). Models: m"),
        ("/half/metadata", 404, "Servable not found for request: Latest(half). Models: m"),
        ("/m/versions/9", 404, "Could not find version 9 of model m"),
        ("/m/versions/9/metadata", 404, "Servable not found for request: Specific(m, 9)"),
        ("/m/versions/x", 400, "Malformed request: GET /v1/models/m/versions/x"),
        ("/m:predict", 400, "Malformed request: /v1/models/m:predict"),
        ("/m/labels/x", 400, "Unrecognized servable version label: x"),
    ],
)
async def test_so_are_those_of_reading(path: str, status: int, sentence: str) -> None:
    response = await call(create_half(), "GET", f"/v1/models{path}")
    assert (response.status_code, response.json()) == (status, {"error": sentence})


async def test_a_version_of_any_name_can_be_asked_for() -> None:
    app = create_half(version="2024-best")
    response = await post(app, "/v1/models/m/versions/2024-best:predict", ONE)
    assert response.json() == {"predictions": [3.5]}


def create_scaled() -> App:
    def scale(items: Sequence[Any]) -> dict[str, Any]:
        scaled = np.stack([item["numbers"] * item["scale"] for item in items])
        return {"scaled": scaled, "text_bytes": np.array([b"a", b"b"][: len(items)], object)}

    return create(scale, BOTH, input={"type": "tensors"})


async def test_models_of_several_inputs_and_outputs() -> None:
    rows = [{"numbers": [1, 2], "scale": 2}, {"numbers": [3, 4], "scale": 3}]
    assert await predict(create_scaled(), instances=rows) == [
        {"scaled": [2.0, 4.0], "text_bytes": {"b64": "YQ=="}},
        {"scaled": [9.0, 12.0], "text_bytes": {"b64": "Yg=="}},
    ]
    columns = {"numbers": [[1, 2], [3, 4]], "scale": [2, 3]}
    expected = {"scaled": [[2, 4], [9, 12]], "text_bytes": [{"b64": "YQ=="}, {"b64": "Yg=="}]}
    assert await predict(create_scaled(), inputs=columns) == expected


async def test_a_scalar_column_holds_for_all_items() -> None:
    answer = await predict(create_scaled(), inputs={"numbers": [[1, 2], [3, 4]], "scale": 2})
    assert answer["scaled"] == [[2, 4], [6, 8]]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"instances": [[1, 2]]}, "instances is a plain list, but expecting list of objects"),
        ({"instances": [{"scale": 1}]}, "keys must be equal to: numbers,scale"),
        ({"inputs": {"scale": [1]}}, "Missing named input: numbers in 'inputs' object."),
        ({"inputs": {"numbers": [[1, 2]], "scale": [1, 2]}}, "Inputs of unlike length"),
        ({"instances": [{"numbers": [1], "scale": 1}]}, "element: 0 of 'instances' list. Error"),
        ({"inputs": {"numbers": [[1]], "scale": [1]}}, "expected float32 (2), got float32 (1,)"),
    ],
)
async def test_tensors_that_do_not_fit_are_told(body: Any, sentence: str) -> None:
    assert sentence in await refused(create_scaled(), PREDICT, body)


URLSAFE = base64.urlsafe_b64encode(PNG).decode()


def mean_colors(images: Sequence[Any]) -> list[Any]:
    return [np.asarray(image, np.float64).mean(axis=(0, 1)).tolist() for image in images]


@pytest.mark.parametrize(
    "instance",
    [
        {"b64": STANDARD},
        {"b64": base64.encodebytes(PNG).decode()},
        {"image": {"b64": STANDARD}},
        {"image": STANDARD},
        STANDARD,
        URLSAFE,
        PIXELS.tolist(),
        {"image": PIXELS.tolist()},
    ],
)
async def test_an_image_is_the_same_in_every_form(instance: Any) -> None:
    app = create(mean_colors, input={"type": "image"})
    expected = PIXELS.mean(axis=(0, 1))
    for value, answer in (
        (await predict(app, instances=[instance]), 0),
        (await predict(app, instances=[instance, instance]), 1),
        (await predict(app, inputs=[instance, instance]), 1)
        if not isinstance(instance, dict) or "b64" in instance
        else (await predict(app, inputs={"image": [instance["image"]] * 2}), 1),
    ):
        np.testing.assert_allclose(value[answer], expected)
    np.testing.assert_allclose(await predict(app, inputs=instance), expected)


async def test_a_packed_stream_gives_a_prediction_for_each_image() -> None:
    app = create(mean_colors, input={"type": "image", "codec": "packed_jpeg"})
    jpeg = encoded(PIXELS, "JPEG")
    stream = (len(jpeg).to_bytes(4, "big") + jpeg) * 3
    answer = await predict(app, instances=[{"b64": base64.b64encode(stream).decode()}])
    single = await predict(app, instances=[{"b64": base64.b64encode(jpeg).decode()}])
    assert answer == single * 3


@pytest.mark.parametrize("codec", ["base64", "base64_urlsafe", "raw", "json_metadata"])
async def test_closures_get_their_own_form_of_text(codec: str) -> None:
    seen: list[Any] = []
    app = create(
        noting(seen),
        input={"type": "string", "codec": codec},
    )
    if codec == "raw":
        instances: list[Any] = ["ab", {"b64": "YWI="}, {"string": "ab"}]
        expected: Any = "ab"
    elif codec == "json_metadata":
        instances = [{"data": STANDARD, "a": 1}, json.dumps({"data": STANDARD, "a": 1})]
        expected = {"data": STANDARD, "a": 1}
    else:
        instances = [{"b64": STANDARD}, STANDARD, URLSAFE, {"string": {"b64": STANDARD}}]
        expected = URLSAFE if codec == "base64_urlsafe" else STANDARD
    await predict(app, instances=instances)
    found = [json.loads(item) for item in seen] if codec == "json_metadata" else seen
    assert found == [expected] * len(instances)


async def test_vectors_of_unlike_length_are_items_of_one_request() -> None:
    app = create(lambda rows: [float(row.sum()) for row in rows], input={"type": "doubles"})
    assert await predict(app, instances=[[1, 2], [3, 4.5, 5]]) == [3, 12.5]
    assert await predict(app, inputs=[[1, 2], [3, 4]]) == [3, 7]
    assert await predict(app, instances=[{"doubles": [1]}]) == [1]
    sentence = await refused(app, PREDICT, {"instances": [[1], ["a"]]})
    assert sentence.startswith("Failed to process element: 1 of 'instances' list. Error: INVALID_")
    assert sentence.endswith('JSON Value: "a" Type: String is not of expected type: double')


async def test_whatever_a_closure_answers_is_a_prediction() -> None:
    answers = [{"label": "a", "scores": [0.5, 1.0]}, None, "text", [[1], [2, 3]], 5]
    app = create(lambda items: answers[: len(items)], input={"type": "string"})
    assert await predict(app, instances=["x"] * 5) == answers
    assert await predict(app, inputs=["x"] * 5) == answers
    assert await predict(app, inputs="x") == answers[0]


async def test_tensors_of_unlike_shapes_are_rows_all_the_same() -> None:
    def repeat(items: Sequence[Any]) -> dict[str, Any]:
        return {"y": np.stack([np.repeat(item, len(item)) for item in items])}

    app = create(repeat, input={"type": "floats"}, batching={"max_batch_size": 1})
    assert await predict(app, instances=[[1.5], [2, 3]]) == [[1.5], [2, 2, 3, 3]]


async def test_user_code_gets_each_instance_as_a_request() -> None:
    def invoke(items: Sequence[Invocation]) -> list[Reply]:
        return [Reply(json.dumps({"got": bytes(item.body).decode()})) for item in items]

    app = create(invoke, input={"type": "request"})
    answer = await predict(app, instances=[{"a": {"b64": "YQ=="}}, {"b64": "YQ=="}])
    assert answer == [{"got": '{"a":{"b64":"YQ=="}}'}, {"got": "a"}]
    assert "not examples" in await refused(app, CLASSIFY, {"examples": [{"a": 1}]})


async def test_a_model_that_fails_answers_500() -> None:
    app = create(lambda items: [1 / int(item) for item in items], input={"type": "string"})
    assert "ZeroDivisionError" in await refused(app, PREDICT, {"instances": ["0"]}, status=500)


async def test_a_model_that_is_late_answers_504() -> None:
    gate = threading.Event()
    app = create(lambda _: gate.wait(20), input={"type": "string"}, deadline={"latency_ms": 20})
    assert "deadline" in await refused(app, PREDICT, {"instances": ["0"]}, status=504)
    gate.set()


async def test_sizes_have_limits() -> None:
    app = create_half(limits={"max_items": 3, "max_body_mb": 0.001})
    for body in ({"instances": [1] * 4}, {"inputs": [1] * 4}):
        assert "at most 3, got 4" in await refused(app, PREDICT, body, status=413)
    assert "at most 3, got 4" in await refused(
        app, REGRESS, {"examples": [{"x": 1.0}] * 4}, status=413
    )
    assert "1000 bytes" in await refused(app, PREDICT, b" " * 1001, status=413)
    large = create(lambda items: {"y": np.zeros((len(items), 5_000_000), np.float32)},
                   input={"type": "string"})  # fmt: skip
    sentence = await refused(large, PREDICT, {"instances": ["x"]}, status=413)
    assert "The result is too large for JSON: expected at most 16000000 bytes" in sentence


async def test_a_large_answer_is_whole() -> None:
    rng = np.random.default_rng(0)
    array = rng.normal(size=(2, 70_000)).astype(np.float32)
    app = create(lambda items: {"y": array[: len(items)]}, input={"type": "string"})
    answer = await predict(app, instances=["x", "x"])
    assert np.array_equal(np.array(answer, np.float32), array)


FRAGMENT = yaml.safe_load(TensorFlowServing.fragment().read_text())


def test_every_route_is_described() -> None:
    described = {
        (method.upper(), path) for path, item in FRAGMENT["paths"].items() for method in item
    }
    assert described == {(route.method, route.path) for route in TensorFlowServing.ROUTES}
    identities = [
        operation["operationId"]
        for item in FRAGMENT["paths"].values()
        for operation in item.values()
    ]
    assert len(set(identities)) == len(identities)
    assert all(each.startswith("tensorflow_serving_") for each in identities)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
KEYS = st.sampled_from(
    ["instances", "inputs", "examples", "context", "signature_name", "b64", "x", "n", "image"]
)
VALUES = st.recursive(
    SCALARS | st.sampled_from([STANDARD, "aGVsbG8=", "serving_default"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=2),
    max_leaves=8,
)
BODIES = (
    st.binary(max_size=40)
    | VALUES.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(KEYS, VALUES, max_size=3).map(lambda value: json.dumps(value).encode())
    | st.builds(
        lambda key, values: json.dumps({key: values}).encode(),
        st.sampled_from(["instances", "examples", "inputs"]),
        st.lists(VALUES, min_size=1, max_size=3),
    )
)
NAMED = (TensorSpec("x", "float32", (-1, 2)), TensorSpec("n", "uint8", (-1,)))


@pytest.mark.parametrize(
    ("declared", "specs"),
    [
        ({"type": "string"}, ()),
        ({"type": "string", "codec": "base64_urlsafe"}, ()),
        ({"type": "bytes", "codec": "json_metadata"}, ()),
        ({"type": "image"}, ()),
        ({"type": "image", "codec": "packed_jpeg"}, NAMED[:1]),
        ({"type": "integers"}, ()),
        ({"type": "tensor"}, NAMED[:1]),
        ({"type": "tensor"}, ()),
        ({"type": "tensor"}, (TensorSpec("inputs", "string", (-1,)),)),
        ({"type": "tensors"}, NAMED),
        ({"type": "tensors"}, (TensorSpec("x", "", ()), TensorSpec("n", "string", (-1, -1)))),
    ],
)
def test_no_body_gets_an_unexpected_answer(declared: Any, specs: tuple[TensorSpec, ...]) -> None:
    app = create(lambda items: [1] * len(items), specs, input=declared)
    with asyncio.Runner() as runner:

        @settings(derandomize=True, deadline=None, max_examples=100, database=None)
        @given(BODIES, st.sampled_from([PREDICT, CLASSIFY, REGRESS]))
        def check(body: bytes, path: str) -> None:
            response = runner.run(post(app, path, body))
            assert response.status_code in (200, 400, 413)
            if response.status_code == 200:
                assert set(response.json()) <= {"predictions", "outputs", "results"}
            else:
                assert set(response.json()) == {"error"}

        check()


@settings(derandomize=True, deadline=None, max_examples=150, database=None)
@given(
    st.sampled_from(["GET", "POST"]),
    st.lists(
        st.sampled_from(
            ["v1", "models", "m", "versions", "labels", "metadata", "1", "m:predict", "1:regress"]
        )
        | st.text("aZ09:.-_~%é ", min_size=1, max_size=6),
        max_size=6,
    ),
)
def test_no_path_gets_an_unexpected_answer(method: str, segments: list[str]) -> None:
    path = "/v1/models/" + "/".join(segments)
    response = asyncio.run(call(create_half(), method, path, content=b'{"instances": [1]}'))
    assert response.status_code in (200, 400, 404, 405)


MALFORMED = [
    ("POST", "/v1/models/m:foo"),
    ("POST", "/v1/models/m:Predict_"),
    ("POST", "/v1/models/m/versions/1:foo"),
    ("POST", "/v1/models/m/labels/stable:foo"),
    ("POST", "/v1/models/no-such:foo"),
    ("POST", "/v1/models/m"),
    ("PUT", "/v1/models/m:predict"),
]


@pytest.mark.parametrize(("method", "path"), MALFORMED)
@pytest.mark.parametrize("protocols", [["tensorflow_serving"], list(PROTOCOLS)])
async def test_an_unknown_verb_is_malformed(method: str, path: str, protocols: list[str]) -> None:
    """http_rest_api_handler.cc: 400 for whatever its expressions do not match."""
    model = create_model(lambda items: items, input={"type": "string"}, protocols=protocols)
    response = await call(create_app(model), method, path, json={"instances": ["a"]})
    assert response.status_code == 400
    assert response.json() == {"error": f"Malformed request: {method} {path}"}
    directory = Directory()
    directory.update([ServedModel("m", "/m", (Address("127.0.0.1", 1),))])
    gateway = Gateway(GatewaySettings(protocols=tuple(protocols)), directory)
    response = await call(gateway, method, path, json={"instances": ["a"]})
    assert response.status_code == 400
    assert response.json() == {"error": f"Malformed request: {method} {path}"}
