"""simple_tensorflow_serving's API."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from rayserve_app.app import create_app
from rayserve_app.types import Metadata, TensorSpec
from tests.protocols import create_model
from tests.protocols.simple_tensorflow_serving.template_model import (
    ALONE,
    PHOTO,
    SMALL_PHOTO,
    create_echo,
    create_image_model,
    create_template_model,
    create_versioned,
    mean_of,
    post,
    upload,
)


def urlsafe(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()


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


# Routes


async def test_awss_requests_are_declined() -> None:
    """SageMaker's control plane posts there too."""
    app = create_echo("string")
    response = await post(
        app, {"data": {"string": ["a"]}}, **{"x-amz-target": "SageMaker.DescribeEndpoint"}
    )
    assert response.status_code == 400
    assert response.json() == {"error": "This is AWS's JSON protocol: got X-Amz-Target"}
