"""Requests whose work is large, in the forms in which each protocol carries it."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from rayserve_app.bench import pictures
from rayserve_app.codecs import npy, packed_jpeg
from rayserve_app.types import Array

JSON, OCTETS, NPY = "application/json", "application/octet-stream", "application/x-npy"
CSV, LINES, STREAM = "text/csv", "application/jsonlines", "application/x-packed-jpeg"
LENGTH: Final = "inference-header-content-length"

IMAGES: Final = ("image", "original", "stream", "yolo", "failing", "late")
VECTORS: Final = ("doubles", "float32", "int8", "detections", "sentences")
INPUTS: Final = {
    **dict.fromkeys(IMAGES, "image"),
    **dict.fromkeys(VECTORS, "doubles"),
    **{"string": "string", "base64": "string", "bytes": "bytes", "request": "request"},
}
"""What models call their input, if not `input`."""

MOST_ITEMS: Final = 999
ANY_STATUS: Final = 0


class Request(NamedTuple):
    """One request to one of the models, below its prefix."""

    model: str
    path: str
    body: bytes = b""
    content_type: str | None = JSON
    headers: Mapping[str, str] = {}
    status: int | None = 200
    """Of the answer; None for any but an error of the server's own, ANY_STATUS for that too."""
    method: str = "POST"


Make: TypeAlias = Callable[[], Request]
Forms: TypeAlias = Mapping[str, Callable[..., Request]]


class JsonForm(NamedTuple):
    """How a protocol carries items in JSON: a path, the whole with one item and with several."""

    path: str
    one: bytes
    several: bytes
    item: bytes = b"%s"


PREDICT, VERSIONED = "/v1/models/{}:predict", "/models/{}/versions/1/predict"
JSON_FORMS: Final = {
    "SageMaker": JsonForm("/invocations", b"%s", b"[%s]"),
    "Clipper": JsonForm("/predict", b'{"input":%s}', b'{"input_batch":[%s]}'),
    "TensorFlow Serving": JsonForm(PREDICT, b'{"instances":[%s]}', b'{"instances":[%s]}'),
    "TensorFlow Serving, inputs": JsonForm(PREDICT, b'{"inputs":[%s]}', b'{"inputs":[%s]}'),
    "Cluster Serving": JsonForm(
        VERSIONED, b'{"instances":[%s]}', b'{"instances":[%s]}', b'{"input":%s}'
    ),
    "simple_tensorflow_serving": JsonForm(
        "", b'{"data":{"input":[%s]}}', b'{"data":{"input":[%s]}}'
    ),
}


def in_json(form: str, model: str, items: Sequence[bytes]) -> Request:
    """Return a request of items that are JSON."""
    path, one, several, item = JSON_FORMS[form]
    joined = b",".join([item % each for each in items])
    return Request(model, path.format(model), (one if len(items) == 1 else several) % joined)


def tensor(model: str, datatype: str, shape: Sequence[int], data: Any) -> Request:
    """Return a request of the Open Inference Protocol, of JSON or of binary data."""
    name = INPUTS.get(model, "input")
    fields: dict[str, Any] = {"name": name, "datatype": datatype, "shape": [*shape]}
    path = f"/v2/models/{model}/infer"
    if not isinstance(data, bytes):
        return Request(model, path, dump({"inputs": [{**fields, "data": data}]}))
    fields["parameters"] = {"binary_data_size": len(data)}
    head = dump({"inputs": [fields], "parameters": {"binary_data_output": True}})
    return Request(model, path, head + data, OCTETS, {LENGTH: str(len(head))})


def dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def image_in_json(form: str, model: str, image: bytes) -> Request:
    item = b'{"b64":"%s"}' if form.startswith("TensorFlow") else b'"%s"'
    return in_json(form, model, [item % b64encode(image)])


def rows_in_json(form: str, model: str, array: Array) -> Request:
    """Return a request of an array (N, length)."""
    return in_json(form, model, [*map(dump, array.round(7).tolist())])


def binary_rows(model: str, array: Array) -> Request:
    is_double = model in VECTORS
    own = array.astype("<f8" if is_double else "<f4")
    return tensor(model, "FP64" if is_double else "FP32", array.shape, own.tobytes())


def answer_of(form: str, model: str, count: int) -> Request:
    """Return a request for so many values, in a protocol's form or as a media type."""
    item = b"[%d.0]" % count
    if form in JSON_FORMS:
        return in_json(form, model, [item])
    return Request(model, "/invocations", item, headers={"accept": form})


def stream(model: str, image: bytes, count: int, accept: str = JSON) -> Request:
    body = packed_jpeg.encode([image] * count)
    return Request(model, "/invocations", body, STREAM, {"accept": accept})


IMAGE_FORMS: Final[Forms] = {
    **{name: partial(image_in_json, name) for name in JSON_FORMS},
    "raw": lambda model, image: Request(model, "/invocations", image, "image/jpeg"),
}
NUMBER_FORMS: Final[Forms] = {
    **{name: partial(rows_in_json, name) for name in JSON_FORMS},
    ".npy": lambda model, array: Request(model, "/invocations", b"".join(npy.encode(array)), NPY),
    "Open Inference, binary": binary_rows,
}
ANSWER_FORMS: Final[Forms] = {
    name: partial(answer_of, name) for name in (*JSON_FORMS, JSON, CSV, NPY, OCTETS, LINES)
}


@cache
def photo() -> bytes:
    """Return a JPEG of 130 KB."""
    return pictures.jpeg(512)


@cache
def numbers(*shape: int) -> Array:
    return np.random.default_rng(0).random(shape, np.float32)


def cases(group: str, forms: Forms, *arguments: Any, status: int | None = 200) -> dict[str, Make]:
    """Return a request in each form; arguments that are functions are called when it is made."""

    def make(form: Callable[..., Request]) -> Request:
        request = form(*(each() if callable(each) else each for each in arguments))
        return request if status == 200 else request._replace(status=status)

    return {f"{group}: {name}": partial(make, form) for name, form in forms.items()}


def _cut(model: str, array: Array, form: str) -> Request:
    request = rows_in_json(form, model, array)
    return request._replace(body=request.body[:-3])


CUT_FORMS: Final[Forms] = {name: partial(_cut, form=name) for name in JSON_FORMS}
KINDS: Final[Mapping[str, Mapping[str, Make]]] = {
    "large bodies": {
        **cases("photo", IMAGE_FORMS, "image", photo),
        **cases("many rows", NUMBER_FORMS, "tensor", partial(numbers, 1000, 200)),
        **cases("many vectors", NUMBER_FORMS, "doubles", partial(numbers, 1000, 200)),
        "ten, for 54.8 MB": lambda: stream("yolo", photo(), 10, NPY),
        "a hundred": lambda: stream("stream", photo(), 100),
    },
    "large answers": {
        **cases("float32", ANSWER_FORMS, "float32", 300_000),
        **cases("detections", ANSWER_FORMS, "detections", 50_000, status=None),
    },
    "faults": cases("cut", CUT_FORMS, "tensor", partial(numbers, 1000, 200), status=ANY_STATUS),
    "dense bodies": cases("rows", NUMBER_FORMS, "tensor", partial(numbers, MOST_ITEMS, 1)),
    "failing models": cases("failing", IMAGE_FORMS, "failing", photo, status=ANY_STATUS),
}
