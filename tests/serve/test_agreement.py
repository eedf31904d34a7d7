"""One photograph has one answer from a model, whatever protocol and form carry it."""

from __future__ import annotations

import ast
import base64
import io
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from skimage import data

from tests.clients import sagemaker
from tests.clients.open_inference import images_input
from tests.serve.conftest import Server

pytestmark = pytest.mark.serve


class Subject(NamedTuple):
    """A model, where it is, and the photograph."""

    client: httpx.Client
    name: str
    image: bytes

    @property
    def url(self) -> str:
        return str(self.client.base_url.join(self.name))

    @property
    def text(self) -> str:
        return base64.b64encode(self.image).decode()

    def post(self, path: str, **options: Any) -> httpx.Response:
        answer = self.client.post(f"/{self.name}{path}", **options)
        assert answer.status_code == 200, answer.text[:1000]
        return answer


OUTPUTS: Mapping[str, Sequence[str]] = {
    "colors": ["colors"],
    "digits": ["output"],
    "resnet-embedding": ["output"],
    "deep_image_model": ["predict", "probability"],
}
"""The models of single images, one of each framework, and their outputs in order."""

HEADS = ("conv2d_58", "conv2d_66", "conv2d_74")
"""The outputs of yolov3, a model of packed streams."""

BINARY = {"Inference-Header-Content-Length": "0"}


def photograph(side: int) -> bytes:
    pixels = cv2.resize(data.astronaut(), (side, side), interpolation=cv2.INTER_AREA)
    ok, encoded = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    assert ok
    return encoded.tobytes()


# Each of these returns the answer for one image: the value of the model's only output, or an object
# of its outputs.


def raw_body(to: Subject) -> Any:
    return to.post("/invocations", content=to.image, headers={"content-type": "image/jpeg"}).json()


def base64_in_json(to: Subject) -> Any:
    return to.post("/invocations", json=to.text).json()


def one_of_a_list(to: Subject) -> Any:
    return to.post("/invocations", json=[base64.urlsafe_b64encode(to.image).decode()]).json()[0]


def b64_object(to: Subject) -> Any:
    return to.post("/invocations", json={"b64": to.text}).json()


def json_with_metadata(to: Subject) -> Any:
    return to.post("/invocations", json={"data": to.text, "format": "jpeg"}).json()


def json_lines(to: Subject) -> Any:
    headers = {"content-type": "application/jsonlines"}
    return to.post("/invocations", content=json.dumps(to.text), headers=headers).json()[0]


def clipper(to: Subject) -> Any:
    answer = to.post("/predict", json={"input": to.text}).json()
    assert answer["default"] is False, answer
    output = answer["output"]
    # Clipper writes what is no number and no list of them as Python's `str` does.
    return ast.literal_eval(output) if isinstance(output, str) else output


def sagemaker_runtime(to: Subject) -> Any:
    return json.loads(sagemaker.invoke(to.url, to.name, to.image, ContentType="image/jpeg"))


def sagemaker_stream(to: Subject) -> Any:
    runtime = sagemaker.create_client("sagemaker-runtime", to.url)
    answer = runtime.invoke_endpoint_with_response_stream(
        EndpointName=to.name, Body=to.image, ContentType="image/jpeg"
    )
    return json.loads(b"".join(event["PayloadPart"]["Bytes"] for event in answer["Body"]))


def tensorflow_serving_rows(to: Subject) -> Any:
    body = {"instances": [{"b64": to.text}]}
    return to.post(f"/v1/models/{to.name}:predict", json=body).json()["predictions"][0]


def tensorflow_serving_columns(to: Subject) -> Any:
    body = {"inputs": [{"b64": to.text}]}
    found = to.post(f"/v1/models/{to.name}:predict", json=body).json()["outputs"]
    return first_item(found) if isinstance(found, dict) else found[0]


def open_inference_binary(to: Subject) -> Any:
    with triton.InferenceServerClient(to.url.removeprefix("http://")) as client:
        name = client.get_model_metadata(to.name)["inputs"][0]["name"]
        result = client.infer(to.name, [images_input(name, [to.image])])
    return only(first_item(triton_arrays(result)))


def open_inference_json(to: Subject) -> Any:
    path = f"/v2/models/{to.name}"
    name = to.client.get(f"/{to.name}{path}").json()["inputs"][0]["name"]
    tensor = {"name": name, "datatype": "BYTES", "shape": [1, 1], "data": [to.text]}
    found = to.post(f"{path}/infer", json={"inputs": [tensor]}).json()["outputs"]
    arrays = {each["name"]: np.array(each["data"]).reshape(each["shape"]) for each in found}
    return only(first_item(arrays))


def open_inference_raw(to: Subject) -> Any:
    answer = to.post(f"/v2/models/{to.name}/infer", content=to.image, headers=BINARY)
    length = int(answer.headers["inference-header-content-length"])
    result = triton.InferenceServerClient.parse_response_body(answer.content, header_length=length)
    return only(first_item(triton_arrays(result)))


def simple_tensorflow_serving_json(to: Subject) -> Any:
    text = base64.urlsafe_b64encode(to.image).decode()
    body = {"model_name": to.name, "data": {"images": [text]}}
    return only(first_item(to.post("", json=body).json()))


def simple_tensorflow_serving_form(to: Subject) -> Any:
    return only(first_item(to.post("", files={"image": ("photo.jpg", to.image)}).json()))


def cluster_serving(to: Subject) -> Any:
    answer = to.post("/predict", json={"instances": [{"image": to.text}]}).json()
    value = json.loads(json.loads(answer["predictions"][0])["value"])
    if to.name == "digits":
        return value  # not a tensor, but the names of classes
    tensors = value if isinstance(value, list) else [value]
    arrays = [np.array(each["data"]).reshape(each["shape"]) for each in tensors]
    return only(dict(zip(OUTPUTS[to.name], arrays, strict=True)))


def multi_model_server_body(to: Subject) -> Any:
    headers = {"content-type": "image/jpeg"}
    answer = to.client.put(f"/{to.name}/predictions/{to.name}", content=to.image, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def multi_model_server_form(to: Subject) -> Any:
    files = {"data": ("photo.jpg", to.image, "image/jpeg")}
    return to.post(f"/predictions/{to.name}", files=files).json()


WAYS: list[Callable[[Subject], Any]] = [
    base64_in_json,
    one_of_a_list,
    b64_object,
    json_with_metadata,
    json_lines,
    clipper,
    sagemaker_runtime,
    sagemaker_stream,
    tensorflow_serving_rows,
    tensorflow_serving_columns,
    open_inference_binary,
    open_inference_json,
    open_inference_raw,
    simple_tensorflow_serving_json,
    simple_tensorflow_serving_form,
    cluster_serving,
    multi_model_server_body,
    multi_model_server_form,
]


def triton_arrays(result: Any) -> dict[str, Any]:
    return {
        each["name"]: result.as_numpy(each["name"]) for each in result.get_response()["outputs"]
    }


def first_item(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outputs of the one item of columns."""
    assert {len(column) for column in columns.values()} == {1}
    return {name: column[0] for name, column in columns.items()}


def only(outputs: Mapping[str, Any]) -> Any:
    """Return the value of a model's only output, else the outputs. In BYTES a value that is no
    tensor is JSON."""
    if len(outputs) > 1:
        return outputs
    (value,) = outputs.values()
    if isinstance(value, str | bytes):
        return json.loads(value)
    return value


def assert_same(found: Any, expected: Any) -> None:
    """Numbers may differ as float32 written as text does, and be integers written as floats."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, list) and isinstance(expected[0], dict):
        assert len(found) == len(expected)
        for each, value in zip(found, expected, strict=True):
            assert_same(each, value)
    elif isinstance(expected, str):
        assert found == expected
    else:
        assert np.shape(found) == np.shape(expected)
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("name", OUTPUTS)
def test_an_image_has_one_answer(
    client: httpx.Client, name: str, way: Callable[[Subject], Any]
) -> None:
    to = Subject(client, name, photograph(256))
    expected = raw_body(to)
    assert_same(way(to), expected)


def test_the_answer_is_that_of_the_pixels(client: httpx.Client) -> None:
    image = photograph(256)
    pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR_RGB)
    found = raw_body(Subject(client, "colors", image))
    np.testing.assert_allclose(found, pixels.mean(axis=(0, 1)), atol=6e-4)


NPY = {"accept": "application/x-npy"}


def packed_stream(to: Subject) -> Any:
    return load(to.post("/invocations", content=pack(to.image)).content)


def packed_stream_in_base64(to: Subject) -> Any:
    text = base64.b64encode(pack(to.image)).decode()
    return load(to.post("/invocations", json=text, headers=NPY).content)


def image_in_base64(to: Subject) -> Any:
    return load(to.post("/invocations", json={"b64": to.text}, headers=NPY).content)


def runtime_npy(to: Subject) -> Any:
    return load(sagemaker.invoke(to.url, to.name, pack(to.image), Accept=NPY["accept"]))


def triton_binary(to: Subject) -> Any:
    return joined(open_inference_binary(to))


def upload(to: Subject) -> Any:
    files = {"data": ("photo.jpg", to.image, "image/jpeg")}
    return load(to.post(f"/predictions/{to.name}", files=files, headers=NPY).content)


def rows_of_json(to: Subject) -> Any:
    return joined(tensorflow_serving_rows(to))


def pack(image: bytes) -> bytes:
    return struct.pack(">I", len(image)) + image


def load(body: bytes) -> Any:
    return np.load(io.BytesIO(body), allow_pickle=False)


def joined(outputs: Mapping[str, Any]) -> Any:
    """Return outputs as `.npy` has them: one after the other, flat."""
    return np.concatenate([np.ravel(outputs[name]) for name in HEADS])


STREAM_WAYS = [
    packed_stream,
    packed_stream_in_base64,
    image_in_base64,
    runtime_npy,
    triton_binary,
    upload,
    rows_of_json,
]
"""As many as is bearable: an answer has 1.4 million numbers."""


def test_a_packed_stream_has_one_answer(client: httpx.Client, server: Server) -> None:
    to = Subject(client, "yolov3", photograph(512))
    image = to.post("/invocations", content=to.image, headers={"content-type": "image/jpeg"})
    expected = load(image.content)
    for way in STREAM_WAYS:
        found = way(to)
        assert found.shape == expected.shape, way.__name__
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=way.__name__)
