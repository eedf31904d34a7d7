"""simple_tensorflow_serving's API."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import numpy as np
import pytest
import skimage
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rayserve_app.app import App, create_app
from rayserve_app.errors import ConfigurationError
from rayserve_app.inference.backend import Predictor
from rayserve_app.inference.model import Model
from rayserve_app.protocols.simple_tensorflow_serving.clients import (
    LANGUAGES,
    endpoint_url,
    write_client,
)
from rayserve_app.settings.model import ModelSettings, parse_settings
from rayserve_app.types import Metadata, TensorSpec
from tests.protocols import FunctionBackend, call, create_model

ALONE = ["simple_tensorflow_serving"]
fast = settings(derandomize=True, deadline=None, max_examples=150)


def jpeg(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


PHOTO = jpeg(skimage.data.astronaut())
"""130 KB in base64, with `-` and `_` in the urlsafe alphabet."""

SMALL_PHOTO = jpeg(skimage.data.chelsea()[:64, :64])


def urlsafe(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()


def mean_of(image: bytes) -> int:
    return int(np.asarray(Image.open(io.BytesIO(image)).convert("L")).mean())


# tensorflow_template_application_model, version 1, as upstream lists it.
TEMPLATE = Metadata(
    platform="TensorFlow",
    inputs=(TensorSpec("keys", "int32", (-1, 1)), TensorSpec("features", "float32", (-1, 9))),
    outputs=(
        TensorSpec("keys", "int32", (-1, 1)),
        TensorSpec("prediction", "int64", (-1,)),
        TensorSpec("softmax", "float32", (-1, 2)),
    ),
)


def classify(items: Sequence[Any]) -> Any:
    assert all(item["features"].dtype == np.float32 for item in items)
    softmax = np.float32([0.6155449748039246, 0.3844550549983978])
    return {
        "softmax": np.stack([softmax] * len(items)),
        "prediction": np.zeros(len(items), np.int64),
        "keys": np.stack([item["keys"] for item in items]),
    }


def create_template_model(function: Any = None, **options: Any) -> Model:
    """Return a stand-in for upstream's model of two tensors."""
    own: dict[str, Any] = {"input": {"type": "tensors"}, "protocols": ALONE}
    metadata = TEMPLATE if function is None else None
    return create_model(function or classify, metadata=metadata, **(own | options))


def create_image_model(**options: Any) -> Model:
    """Return a stand-in for upstream's deep_image_model, whose graph decodes urlsafe base64."""

    def predict(texts: Sequence[str]) -> Any:
        images = [base64.b64decode(text, b"-_", validate=True) for text in texts]
        return {"prediction": np.array([mean_of(image) for image in images])}

    metadata = Metadata(
        platform="TensorFlow",
        inputs=(TensorSpec("images", "string", (-1,)),),
        outputs=(TensorSpec("prediction", "int64", (-1,)),),
    )
    own: dict[str, Any] = {
        "input": {"type": "string", "codec": "base64_urlsafe"},
        "protocols": ALONE,
    }
    return create_model(predict, metadata=metadata, **(own | options))


def create_echo(kind: str, **options: Any) -> App:
    """Return the app of a model that answers what its items are."""

    def describe(items: Sequence[Any]) -> list[str]:
        return [str(item) for item in items]

    own: dict[str, Any] = {"input": {"type": kind}, "protocols": ALONE}
    return create_app(create_model(describe, **(own | options)))


async def post(app: App, fields: Any, path: str = "/", **headers: str) -> httpx.Response:
    return await call(app, "POST", path, json=fields, headers=headers)


async def upload(
    app: App, files: Any, path: str = "/", data: Mapping[str, str] | None = None
) -> httpx.Response:
    return await call(app, "POST", path, files=files, data=data or {})


# Inference in JSON


@pytest.mark.parametrize("keys", [[[11.0], [2.0]], [[11], [2]]])
async def test_the_template_model_answers_as_upstream_does(keys: Any) -> None:
    """The request of upstream's Python client, which sends `keys` of int32 as floats."""
    data = {"keys": keys, "features": [[1] * 9, [1] * 9]}
    response = await post(create_app(create_template_model()), {"data": data})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.content == (
        b'{"keys":[[11],[2]],"prediction":[0,0],"softmax":'
        b"[[0.6155449748039246,0.3844550549983978],[0.6155449748039246,0.3844550549983978]]}\n"
    )


@pytest.mark.parametrize("keys", [[[11.5]], [[11], [1, 2]], [["11"]], [[1e20]]])
async def test_what_is_no_integer_is_none(keys: Any) -> None:
    data = {"keys": keys, "features": [[1] * 9] * len(keys)}
    response = await post(create_app(create_template_model()), {"data": data})
    assert response.status_code == 400


async def test_an_image_model_answers_one_image_and_two() -> None:
    app = create_app(create_image_model())
    answer = {"prediction": [mean_of(PHOTO), mean_of(SMALL_PHOTO)]}
    images = [urlsafe(PHOTO), urlsafe(SMALL_PHOTO)]
    assert (await post(app, {"data": {"images": images[:1]}})).json() == {
        "prediction": answer["prediction"][:1]
    }
    response = await post(app, {"data": {"images": images}})
    assert response.json() == answer


@pytest.mark.parametrize("name", ["m", "default", None])
async def test_the_model_goes_by_its_name_the_default_one_and_none(name: str | None) -> None:
    fields = {"data": {"string": ["a"]}} | ({} if name is None else {"model_name": name})
    assert (await post(create_echo("string"), fields)).json() == {"output": ["a"]}


async def test_an_input_without_a_name_takes_the_clients() -> None:
    app = create_echo("string")
    assert (await post(app, {"data": {"any": ["a"]}})).json() == {"output": ["a"]}


async def test_uploads_and_examples_may_say_images_whatever_the_input_is_called() -> None:
    metadata = Metadata("function", (TensorSpec("pixels", "uint8", (-1, -1, -1, 3)),))
    app = create_app(
        create_model(
            lambda images: [float(image.mean()) for image in images],
            metadata=metadata,
            input={"type": "image"},
            protocols=ALONE,
        )
    )
    text = urlsafe(SMALL_PHOTO)
    answers = [
        (await post(app, {"data": {name: [text]}})).json() for name in ("pixels", "image", "images")
    ]
    answers.append((await upload(app, {"image": SMALL_PHOTO})).json())
    assert answers == answers[:1] * 4
    response = await post(app, {"data": {"other": [text]}})
    assert response.json()["error"].startswith("Input op name 'pixels' does not exist")


async def test_data_without_a_name_are_the_only_input() -> None:
    """scikitlearn_inference_service.py"""
    app = create_echo("floats")
    response = await post(app, {"data": [[1.0, 2.0], [3.0, 4.0]]})
    assert response.json() == {"output": ["[1. 2.]", "[3. 4.]"]}


async def test_inputs_that_the_model_lacks_are_ignored() -> None:
    data = {"keys": [[11]], "features": [[1] * 9]}
    app = create_app(create_template_model())
    answers = [(await post(app, {"data": data | more})).json() for more in ({}, {"other": 1})]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "more",
    [
        {"preprocess": "true", "postprocess": "false"},
        {"run_profile": "true"},
        {"model_version": ""},
        {"model_version": None, "signature_name": None},
        {"base64_decode": False},
    ],
)
async def test_what_changes_nothing_is_ignored(more: dict[str, Any]) -> None:
    fields = {"data": {"string": ["a"]}} | more
    assert (await post(create_echo("string"), fields)).json() == {"output": ["a"]}


async def test_examples_of_estimators_are_decoded_on_request() -> None:
    example = b"\n\x0b\n\t\n\x01x\x12\x04\x12\x02\n\x00\xff"
    metadata = Metadata("function", (TensorSpec("input_example_tensor", "string", (-1,)),))
    app = create_echo("bytes", metadata=metadata)
    fields = {"data": {"input_example_tensor": [urlsafe(example)]}, "base64_decode": True}
    assert (await post(app, fields)).json() == {"output": [str(example)]}
    for data in ({"input_example_tensor": "YQ=="}, {"input_example_tensor": [1]}, {"x": []}):
        response = await post(app, fields | {"data": data})
        assert response.status_code == 400
        assert "data.input_example_tensor" in response.json()["error"]


async def test_base64_is_decoded_anywhere_if_the_settings_say_so() -> None:
    """enable_b64_autoconvert"""
    metadata = Metadata("function", (TensorSpec("text", "string", (-1, 2)),))
    data = {"text": [[{"b64": "w6k_"}, "plain"]]}
    options = {"metadata": metadata, "input": {"type": "tensors"}}
    convert = {"simple_tensorflow_serving": {"autoconvert_base64": True}}
    app = create_echo("tensors", **options, protocol_settings=convert)
    (answer,) = (await post(app, {"data": data})).json()["output"]
    assert repr("é?".encode()) in answer
    app = create_echo("tensors", **options)
    (answer,) = (await post(app, {"data": data})).json()["output"]
    assert "b64" in answer
    app = create_echo("string", protocol_settings=convert)
    answer = (await post(app, {"data": {"string": [{"b64": "w6k_"}]}})).json()
    assert answer == {"output": ["é?"]}


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ({"b": np.float32([0.1]), "a": np.float16([0.1])}, b'{"a":[0.0999755859375],"b":['),
        ({"f": np.array([[np.nan, -np.inf]], np.float32)}, b'{"f":[[NaN,-Infinity]]}\n'),
        ({"n": np.array([True])}, b'{"n":[true]}\n'),
        (
            {
                "s": np.array(
                    [
                        b"\xc3\xa9",
                    ],
                    object,
                )
            },
            '{"s":["é"]}\n'.encode(),
        ),
        ({"s": np.array([[b"\xff\xfe"]], object)}, b'{"s":[[{"b64":"//4="}]]}\n'),
        ({"s": np.array([b"a"])}, b'{"s":["a"]}\n'),
        ([{"label": "cat"}], b'{"output":[{"label":"cat"}]}\n'),
    ],
    ids=["floats", "specials", "booleans", "strings", "bytes", "fixed-strings", "objects"],
)
async def test_outputs_are_written_as_flask_does(outputs: Any, expected: bytes) -> None:
    app = create_app(create_model(lambda _: outputs, input={"type": "string"}, protocols=ALONE))
    response = await post(app, {"data": {"string": ["a"]}})
    assert response.content.startswith(expected)
    assert response.content.endswith(b"\n")


# Versions and signatures


class Versioned(FunctionBackend):
    def versions(self) -> Mapping[str, Mapping[str, Predictor]]:
        def say(what: str) -> FunctionBackend:
            return FunctionBackend(lambda items: [what] * len(items))

        return {
            "3": {"serving_default": say("3"), "embed": say("3 embed")},
            "1": {"serving_default": say("1")},
        }


def create_versioned(**options: Any) -> App:
    backend = Versioned(lambda items: items)
    fields = {"input": {"type": "string"}, "protocols": ALONE, **options}
    model = Model(ModelSettings.model_validate(fields), backend, name="m")
    model.load()
    model.warm_up()
    return create_app(model)


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ({}, "3"),
        ({"model_version": 1}, "1"),
        ({"model_version": "1"}, "1"),
        ({"signature_name": "embed"}, "3 embed"),
        ({"model_version": "3", "signature_name": "embed"}, "3 embed"),
    ],
)
async def test_a_request_picks_a_version_and_a_signature(
    asked: dict[str, Any], answer: str
) -> None:
    app = create_versioned()
    response = await post(app, {"data": {"string": ["a"]}, **asked})
    assert response.json() == {"output": [answer]}
    texts = {name: str(value) for name, value in asked.items()}
    response = await upload(app, {"image": b"a"}, data=texts)
    assert response.json() == {"output": [answer]}


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        (
            {"model_version": 9},
            "Fail to request the model version: 9, please check the request JSON: "
            "expected one of '3', '1'",
        ),
        (
            {"signature_name": "x"},
            "Fail to request the signature name: x, please check the request JSON: "
            "expected one of 'serving_default', 'embed'",
        ),
        ({"model_version": 1.0}, "Not a name: expected a string, got float - at `model_version`"),
        ({"model_version": True}, "Not a name: expected a string, got bool - at `model_version`"),
        ({"signature_name": 1}, "Not a name: expected a string, got int - at `signature_name`"),
    ],
)
async def test_what_the_model_lacks_is_refused(asked: dict[str, Any], error: str) -> None:
    response = await post(create_versioned(), {"data": {"string": ["a"]}, **asked})
    assert (response.status_code, response.json()) == (400, {"error": error})


# Uploads


@pytest.mark.parametrize(
    ("kind", "codec"),
    [
        ("string", "base64_urlsafe"),
        ("string", "raw"),
        ("string", "base64"),
        ("bytes", "raw"),
        ("bytes", "base64"),
        ("image", "raw"),
    ],
)
async def test_an_uploaded_image_becomes_what_the_model_declares(kind: str, codec: str) -> None:
    seen: list[Any] = []

    def keep(items: Sequence[Any]) -> list[int]:
        seen.extend(items)
        return [len(items)] * len(items)

    model = create_model(keep, input={"type": kind, "codec": codec}, protocols=ALONE, warm_up=False)
    response = await upload(create_app(model), {"image": ("a/../b.jpg", SMALL_PHOTO)})
    assert response.status_code == 200, response.text
    (item,) = seen
    if kind == "image":
        assert item.shape == (64, 64, 3)
    elif kind == "bytes":
        assert bytes(item) == SMALL_PHOTO
    else:
        encode = base64.b64encode if codec == "base64" else base64.urlsafe_b64encode
        assert item == encode(SMALL_PHOTO).decode()


async def test_of_several_files_image_comes_first() -> None:
    app = create_app(create_image_model())
    black, white = (jpeg(np.full((8, 8, 3), value, np.uint8)) for value in (0, 255))
    files = [
        ("images", ("1.jpg", white)),
        ("image", ("2.jpg", black)),
        ("images", ("3.jpg", white)),
        ("image", ("4.jpg", black)),
    ]
    response = await upload(app, files)
    assert response.json() == {"prediction": [0, 0, 255, 255]}


@pytest.mark.parametrize("name", ["m", "default", ""])
async def test_the_name_in_a_form_may_be_the_models(name: str) -> None:
    app = create_app(create_image_model())
    response = await upload(app, {"image": PHOTO}, data={"model_name": name})
    assert response.json() == {"prediction": [mean_of(PHOTO)]}


async def test_another_name_in_a_form_is_refused() -> None:
    """Upstream ignores it, and its default model answers for the other."""
    app = create_app(create_image_model())
    response = await upload(app, {"image": PHOTO}, data={"model_name": "other"})
    assert response.status_code == 400
    assert response.json() == {"error": "Invalid model name: other, available models: ['m']"}


@pytest.mark.parametrize(
    "files",
    [{"other": PHOTO}, {"image": ("", b"")}, {"image": (None, "")}],
    ids=["other-name", "none-chosen", "empty"],
)
async def test_a_form_without_an_image_is_refused(files: Any) -> None:
    response = await upload(create_app(create_image_model()), files)
    assert response.status_code == 400
    assert response.json() == {"error": "Need to set image or images for form-data"}


async def test_a_form_that_is_cut_is_refused() -> None:
    response = await call(
        create_app(create_image_model()),
        "POST",
        "/",
        content=b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nx',
        headers={"content-type": "multipart/form-data; boundary=b"},
    )
    assert response.status_code == 400
    assert "cut" in response.json()["error"]


# Errors


EMPTY = "not JSON: Input is a zero-length, empty document: line 1 column 1 (char 0)"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"[1, 2]", "Invalid json data: [1, 2]"),
        (b"{bad", "Invalid json data: {bad"),
        (b"", f"Invalid json data: {EMPTY}"),
        (b"\xff", "Invalid json data: \ufffd"),
        (b"[" * 1000, "Invalid json data: JSON is nested too deeply: expected at most 64 levels"),
        (b'{"data": {}}', "Inference with empty data, please check the request JSON"),
        (b"{}", "Inference with empty data, please check the request JSON"),
        (b'{"data": 1}', "Wrong kind of data: expected an object of inputs, got int - at `data`"),
        (b'{"data": {"string": []}}', "No items: expected at least one - at `data`"),
        (
            b'{"model_name": "nope", "data": {}}',
            "Invalid model name: nope, available models: ['m']",
        ),
        (b'{"model_name": ["m"]}', "Invalid model name: ['m'], available models: ['m']"),
        (
            b'{"data": {"string": [1]}}',
            "Not a string: expected a string, got int - at `data.string[0]`",
        ),
    ],
)
async def test_errors_are_the_intended_ones(body: bytes, error: str) -> None:
    response = await call(
        create_echo("string"),
        "POST",
        "/",
        content=body,
        headers={"content-type": "application/json; charset=utf-8"},
    )
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"error": error}
    assert response.content.endswith(b"\n")


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_other_content_types_are_refused(content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    response = await call(create_echo("string"), "POST", "/", content=b"{}", headers=headers)
    assert response.status_code == 400
    sentence = "Error, unsupported content type: expected application/json or multipart/form-data"
    assert response.json()["error"].startswith(sentence)


async def test_a_missing_input_is_named() -> None:
    response = await post(create_app(create_template_model()), {"data": {"keys": [[1]]}})
    assert response.status_code == 400
    assert response.json() == {
        "error": "Input op name 'features' does not exist in input data: ['keys'], "
        "please check the request JSON"
    }


async def test_a_failing_model_is_no_fault_of_the_server() -> None:
    def fail(_: Any) -> Any:
        raise ValueError("shape is off")

    app = create_app(create_model(fail, input={"type": "string"}, protocols=ALONE))
    response = await post(app, {"data": {"string": ["a"]}})
    assert response.status_code == 400
    assert "shape is off" in response.json()["error"]


async def test_what_http_has_a_status_for_keeps_it() -> None:
    app = create_echo("string", limits={"max_items": 1})
    assert (await post(app, {"data": {"string": ["a", "b"]}})).status_code == 413
    cold = create_app(
        create_model(lambda items: items, input={"type": "string"}, protocols=ALONE, is_warm=False)
    )
    for response in (
        await post(cold, {"data": {"string": ["a"]}}),
        await call(cold, "GET", "/health"),
    ):
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) > 0
        assert response.json() == {"error": "Model 'm' is warming up"}


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)


@fast
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "model_name": JSON_VALUES,
            "model_version": JSON_VALUES | st.just("1"),
            "signature_name": JSON_VALUES,
            "base64_decode": st.just(True) | JSON_VALUES,
            "data": st.fixed_dictionaries({}, optional={"string": JSON_VALUES, "keys": JSON_VALUES})
            | JSON_VALUES,
        },
    )
    | JSON_VALUES,
    st.sampled_from(["string", "tensors", "image", "bytes", "floats", "tensor", "request"]),
)
def test_no_json_is_the_servers_fault(fields: Any, kind: str) -> None:
    convert = {"simple_tensorflow_serving": {"autoconvert_base64": True}}
    app = create_echo(kind, protocol_settings=convert)
    # Infinities too, which httpx would not write.
    body = json.dumps(fields).encode()
    headers = {"content-type": "application/json"}
    response = asyncio.run(call(app, "POST", "/", content=body, headers=headers))
    assert response.status_code in (200, 400, 413), response.text
    assert isinstance(response.json(), dict)


@fast
@given(
    st.binary(),
    st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0")),
    st.sampled_from(["/", "/run_image_inference", "/run_json_inference", "/run_generate_clients"]),
)
def test_no_body_and_no_header_is_the_servers_fault(body: bytes, text: str, path: str) -> None:
    async def send() -> None:
        app = create_echo("image")
        for kind in (
            text,
            f"multipart/form-data; boundary={text}",
            "multipart/form-data;boundary=b",
        ):
            response = await call(
                app,
                "POST",
                path,
                content=b"--b\r\n" + body,
                headers=[
                    (b"content-type", kind.encode("latin-1")),
                    (b"authorization", text.encode("latin-1")),
                    (b"x-forwarded-host", text.encode("latin-1")),
                ],
            )
            assert response.status_code == 400, response.text

    asyncio.run(send())


# Routes


async def test_awss_requests_are_declined() -> None:
    """SageMaker's control plane posts there too."""
    app = create_echo("string")
    response = await post(
        app, {"data": {"string": ["a"]}}, **{"x-amz-target": "SageMaker.DescribeEndpoint"}
    )
    assert response.status_code == 400
    assert response.json() == {"error": "This is AWS's JSON protocol: got X-Amz-Target"}


# Authentication


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> App:
    monkeypatch.setenv("M_PASSWORD", "sesam:é")
    auth = {"username": "ann", "password_variable": "M_PASSWORD"}
    return create_echo("string", protocol_settings={"simple_tensorflow_serving": auth})


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


OPEN = ["/health", "/image_inference", "/json_inference", "/generate_clients"]
GUARDED = ["/v1/models", "/v1/models/m", "/v1/models/m/gen_json", "/v1/models/m/gen_client"]


async def test_the_user_may_call(guarded: App) -> None:
    response = await post(guarded, {"data": {"string": ["a"]}}, authorization=basic("ann:sesam:é"))
    assert response.json() == {"output": ["a"]}
    for path in GUARDED:
        headers = {"authorization": basic("ann:sesam:é"), "host": "h"}
        assert (await call(guarded, "GET", path, headers=headers)).status_code == 200


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
async def test_credentials_are_utf_8_or_latin_1(guarded: App, encoding: str) -> None:
    token = base64.b64encode("ann:sesam:é".encode(encoding)).decode()
    response = await post(guarded, {"data": {"string": ["a"]}}, authorization=f"basic {token}")
    assert response.status_code == 200


async def test_a_password_that_latin_1_lacks_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M_PASSWORD", "日本")
    auth = {"username": "ann", "password_variable": "M_PASSWORD"}
    app = create_echo("string", protocol_settings={"simple_tensorflow_serving": auth})
    fields = {"data": {"string": ["a"]}}
    assert (await post(app, fields, authorization=basic("ann:日本"))).status_code == 200
    for other in ("ann:", "ann:??"):
        assert (await post(app, fields, authorization=basic(other))).status_code == 401


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Basic", "Basic !", "Bearer x", basic("ann"), basic("ann:"), basic("bob:sesam:é")],
)
async def test_others_may_not(guarded: App, authorization: str | None) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    responses = [await post(guarded, {"data": {"string": ["a"]}}, **headers)]
    for path in ("/run_image_inference", "/run_json_inference", "/run_generate_clients"):
        responses.append(await call(guarded, "POST", path, headers=headers))
    responses += [await call(guarded, "GET", path, headers=headers) for path in GUARDED]
    for response in responses:
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == 'Basic realm="Login Required"'
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        assert response.text == "Need basic auth to request the resources"
    for path in OPEN:
        assert (await call(guarded, "GET", path)).status_code == 200


@pytest.mark.parametrize(
    ("auth", "sentence"),
    [
        ({"username": "ann"}, "'username' and 'password_variable' go together"),
        ({"password_variable": "P"}, "'username' and 'password_variable' go together"),
        ({"username": "a:b", "password_variable": "P"}, "colon"),
    ],
)
def test_half_a_credential_is_refused(auth: dict[str, str], sentence: str) -> None:
    fields = {
        "input": {"type": "string"},
        "protocol_settings": {"simple_tensorflow_serving": auth},
    }
    with pytest.raises(ConfigurationError, match=sentence):
        parse_settings(ModelSettings, {"model": fields})


@pytest.mark.parametrize("password", [None, ""])
def test_a_model_without_its_password_is_not_served(
    password: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if password is None:
        monkeypatch.delenv("M_PASSWORD", raising=False)
    else:
        monkeypatch.setenv("M_PASSWORD", password)
    auth = {"username": "ann", "password_variable": "M_PASSWORD"}
    with pytest.raises(ConfigurationError, match=r"'M_PASSWORD'.*password_variable"):
        create_echo("string", protocol_settings={"simple_tensorflow_serving": auth})


# Models


async def test_the_list_of_models_is_json_that_calls_itself_html() -> None:
    app = create_app(create_template_model())
    response = await call(app, "GET", "/v1/models")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    (model,) = response.json()
    assert model == {
        "model_name": "m",
        "model_base_path": "",
        "model_version_list": ["1"],
        "model_signature": {
            "inputs": [
                {"name": "keys", "dtype": 3, "shape": [-1, 1]},
                {"name": "features", "dtype": 1, "shape": [-1, 9]},
            ],
            "outputs": [
                {"name": "keys", "dtype": 3, "shape": [-1, 1]},
                {"name": "prediction", "dtype": 9, "shape": [-1]},
                {"name": "softmax", "dtype": 1, "shape": [-1, 2]},
            ],
        },
        "platform": "TensorFlow",
    }
    for name in ("m", "default"):
        assert (await call(app, "GET", f"/v1/models/{name}")).json() == model


async def test_all_versions_are_listed() -> None:
    (model,) = (await call(create_versioned(), "GET", "/v1/models")).json()
    assert model["model_version_list"] == ["3", "1"]


async def test_no_name_of_a_model_is_read_as_html() -> None:
    metadata = Metadata("<b>&", (TensorSpec("<script>", "float32", (-1,)),))
    app = create_echo("tensors", metadata=metadata)
    response = await call(app, "GET", "/v1/models")
    assert "<" not in response.text
    assert response.json()[0]["platform"] == "<b>&"
    response = await call(app, "GET", "/v1/models/<script>")
    assert response.text == "Model not found: &lt;script&gt;"
    assert response.status_code == 200


async def test_nothing_is_generated_for_unknown_models_and_languages() -> None:
    app = create_app(create_template_model())
    for path in ("/v1/models/x/gen_json", "/v1/models/x/gen_client"):
        response = await call(app, "GET", path)
        assert response.status_code == 404
        assert response.json() == {"error": "No model 'x'. Models: m"}
    response = await call(app, "GET", "/v1/models/m/gen_client?language=cobol")
    assert response.status_code == 400
    assert "one of bash, python, golang, javascript, json" in response.json()["error"]


# Examples and clients


@pytest.mark.parametrize(
    ("dtype", "shape", "expected"),
    [
        ("float32", (-1, 3), [[1.0] * 3] * 2),
        ("int64", (-1, -1), [[1, 1]] * 2),
        ("bool", (-1,), [True, True]),
        ("string", (-1, 1), [[""], [""]]),
        ("", (), None),
        ("float64", (4, 1), [[1.0]] * 4),
    ],
)
async def test_an_example_fits_the_signature(dtype: str, shape: Any, expected: Any) -> None:
    spec = TensorSpec("x", dtype, shape)
    app = create_echo("tensors", metadata=Metadata("function", (spec,)))
    response = await call(app, "GET", "/v1/models/m/gen_json")
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"data": {"x": 1.0 if expected is None else expected}}


async def test_the_examples_of_the_template_model_are_upstreams() -> None:
    app = create_app(create_template_model())
    response = await call(app, "GET", "/v1/models/m/gen_json")
    assert response.json() == {"data": {"keys": [[1], [1]], "features": [[1.0] * 9, [1.0] * 9]}}
    assert (await call(app, "GET", "/v1/models/m/gen_client?language=json")).json() == (
        response.json()
    )


@pytest.mark.parametrize(
    "declared",
    [
        {"type": "string", "codec": "base64_urlsafe"},
        {"type": "image", "size": [32, 32]},
        {"type": "image", "codec": "packed_jpeg"},
        {"type": "bytes", "codec": "json_metadata"},
        {"type": "bytes"},
        {"type": "string"},
        {"type": "integers"},
        {"type": "doubles"},
        {"type": "tensor", "dtype": "uint8", "shape": [2, 2]},
        {"type": "tensor"},
        {"type": "request"},
    ],
    ids=str,
)
async def test_the_example_is_answered(declared: dict[str, Any]) -> None:
    app = create_echo("", input=declared)
    example = (await call(app, "GET", "/v1/models/m/gen_json")).json()
    response = await post(app, example)
    assert response.status_code == 200, response.text
    count = 1 if declared == {"type": "request"} else 2
    assert len(response.json()["output"]) == count


async def test_an_example_has_no_more_items_than_a_request_may() -> None:
    app = create_echo("string", limits={"max_items": 1})
    assert (await call(app, "GET", "/v1/models/m/gen_json")).json() == {"data": {"string": [""]}}


async def test_an_example_is_as_large_as_one_can_read() -> None:
    app = create_echo("tensor", input={"type": "tensor", "shape": [600, 1000]})
    example = (await call(app, "GET", "/v1/models/m/gen_json")).json()
    assert np.shape(example["data"]["tensor"]) == (1, 600, 1000)
    app = create_echo("tensor", input={"type": "tensor", "shape": [1001, 1000]})
    response = await call(app, "GET", "/v1/models/m/gen_json")
    assert response.status_code == 413
    assert "too large for an example" in response.json()["error"]


async def test_a_client_asks_for_the_signature_that_it_was_generated_for() -> None:
    path = "/v1/models/m/gen_client?signature_name=embed"
    response = await call(create_versioned(), "GET", path, headers={"host": "h:1"})
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert '"signature_name":"embed"' in response.text
    assert "http://h:1/m " in response.text


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"host": "server:8000"}, "http://server:8000/a%20b"),
        ({"host": "[::1]:8000"}, "http://[::1]:8000/a%20b"),
        (
            {
                "host": "10.0.0.1:8000",
                "x-forwarded-host": "models.example.org, inner",
                "x-forwarded-proto": "https, http",
                "x-forwarded-prefix": "/team/",
            },
            "https://models.example.org/team/a%20b",
        ),
    ],
)
def test_the_endpoint_is_what_the_client_reached(headers: dict[str, str], expected: str) -> None:
    assert endpoint_url(headers.get, "/a b") == expected


@pytest.mark.parametrize("language", LANGUAGES[:-1])
@pytest.mark.parametrize(
    "name", ["host", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-prefix"]
)
@pytest.mark.parametrize("value", ["a'$(id)", 'a"; x', "a`id`", "a\\", "a b", "a\u2028", "h/x"])
async def test_no_header_gets_into_source_code(language: str, name: str, value: str) -> None:
    response = await call(
        create_app(create_template_model()),
        "GET",
        f"/v1/models/m/gen_client?language={language}",
        headers=[(b"host", b"h"), (name.encode(), value.encode())],
    )
    assert response.status_code == 400
    assert "- at `" in response.json()["error"]


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"))


@settings(derandomize=True, deadline=None, max_examples=10)
@given(NAMES, st.sampled_from(["bash", "python", "javascript"]))
def test_no_name_of_an_input_gets_out_of_its_quotes(name: str, language: str) -> None:
    """The clients print the request that they would send."""
    fields = {"data": {"'\"`$(x)\\\n</script>" + name: ["${HOME} $HOME `x`", name]}}
    source = write_client(language, "http://h", fields, has_auth=False).decode()
    if language == "bash":
        source = re.sub(r"curl (.*\\\n)+.*<<", "cat <<", source)
        command = ["bash", "-c", source]
    elif language == "python":
        command = ["python3", "-c", source.replace("    main()", "    print(json.dumps(REQUEST))")]
    else:
        source = source.replace("\nmain();", "\nconsole.log(JSON.stringify(request));")
        command = ["node", "-e", source.partition("\n")[2]]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert json.loads(run.stdout) == fields, run.stderr


# Pages


async def test_the_image_form_shows_its_result() -> None:
    app = create_app(create_image_model())
    page = await call(app, "GET", "/image_inference")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert 'action="run_image_inference"' in page.text
    assert 'type="file" name="image"' in page.text
    data = {"model_name": "m", "model_version": "1", "signature_name": ""}
    response = await upload(app, {"image": PHOTO}, "/run_image_inference", data)
    assert response.status_code == 200
    assert f"{{&quot;prediction&quot;:[{mean_of(PHOTO)}]}}" in response.text


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("encoding", ["multipart", "urlencoded"])
async def test_the_json_form_shows_its_result(whole: bool, encoding: str) -> None:
    app = create_versioned()
    data: dict[str, Any] = {"string": ["a"]}
    request = {"data": data, "model_version": "1"} if whole else data
    fields = {"model_name": "default", "model_version": "3", "json_data": json.dumps(request)}
    options: dict[str, Any] = {"data": fields}
    if encoding == "multipart":
        options = {"files": {name: (None, value) for name, value in fields.items()}}
    response = await call(app, "POST", "/run_json_inference", **options)
    assert response.status_code == 200, response.text
    assert f"{{&quot;output&quot;:[&quot;{1 if whole else 3}&quot;]}}" in response.text


async def test_the_form_of_clients_shows_their_source() -> None:
    app = create_versioned()
    page = await call(app, "GET", "/generate_clients")
    assert all(f"<option>{language}</option>" in page.text for language in LANGUAGES)
    fields = {"model_name": "m", "signature_name": "embed", "language": "golang"}
    headers = {"host": "h:1"}
    response = await call(app, "POST", "/run_generate_clients", data=fields, headers=headers)
    assert response.status_code == 200
    assert "const endpoint = &quot;http://h:1/m&quot;" in response.text
    response = await call(app, "POST", "/run_generate_clients", data={"language": "json"})
    assert "{&quot;data&quot;:{&quot;string&quot;:[&quot;&quot;,&quot;&quot;]}}" in response.text


@pytest.mark.parametrize(
    ("path", "fields", "status", "error"),
    [
        ("/run_json_inference", {"json_data": "<script>"}, 400, "&lt;script&gt;"),
        ("/run_json_inference", {}, 400, "Invalid json data"),
        ("/run_json_inference", {"model_name": "<x>"}, 400, "Invalid model name: &lt;x&gt;"),
        ("/run_image_inference", {"image": ""}, 400, "Need to set image"),
        ("/run_generate_clients", {"language": "<x>"}, 400, "No such language"),
    ],
)
async def test_a_form_shows_its_error(
    path: str, fields: dict[str, str], status: int, error: str
) -> None:
    fields = fields or {"x": "y"}
    response = await call(create_echo("string"), "POST", path, data=fields)
    assert response.status_code == status
    assert "<h2>Error</h2>" in response.text
    assert error in response.text
    assert "<x>" not in response.text
    assert "<script" not in response.text
    assert "default-src 'none'" in response.headers["content-security-policy"]


async def test_a_result_is_not_read_as_html() -> None:
    app = create_echo("string")
    fields = {"json_data": json.dumps({"string": ["<img src=x onerror=alert(1)>"]})}
    response = await call(app, "POST", "/run_json_inference", data=fields)
    assert "<img" not in response.text
    assert "&lt;img" in response.text
