"""Requests of every kind, within the limits that a model has by default, and the models that they
go to: tables of the forms in which each protocol carries an image, numbers or text, and asks for
answers.

Some are long; some are as short as their work is long, of many values or items in little text.
"""

from __future__ import annotations

import gzip
import json
import random
import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from rayserve_app.bench import pictures
from rayserve_app.bench.figures.event_loop import (
    FLOATS,
    PACKED,
    detections,
    failing,
    lengths,
    sums,
)
from rayserve_app.bench.loop_probe import ANY_STATUS, Probed, Request
from rayserve_app.bench.models import fresh_heads
from rayserve_app.codecs import npy, packed_jpeg
from rayserve_app.inference.model import INLINE_BYTES
from rayserve_app.types import Array, Outputs, Reply

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
ESCAPED, FORM = "application/x-www-form-urlencoded", "multipart/form-data; boundary=B"


def echo(items: Sequence[Any]) -> Outputs:
    return [Reply(bytes(item.body), item.content_type) for item in items]


def random_numbers(items: Sequence[Any], dtype: str) -> Outputs:
    """Answer as many numbers as the item says."""
    found = np.random.default_rng(0).random(int(items[0][0])) * (100 if dtype == "int8" else 1)
    return {"numbers": np.repeat(found.astype(dtype)[None], len(items), 0)}


def late(items: Sequence[Any]) -> Outputs:
    """Answer after the deadline."""
    time.sleep(0.25)
    return lengths(items)


IMAGE: Final = {"type": "image"}
DOUBLES: Final = {"type": "doubles"}
SHORT: Final = {"deadline": {"latency_ms": 150}, "limits": {"body_timeout_s": 0.3}}
MODELS: Final = {
    "image": Probed(lengths, {"type": "image", "size": (224, 224)}),
    "original": Probed(lengths, IMAGE),
    "bytes": Probed(lengths, {"type": "bytes"}),
    "string": Probed(list, {"type": "string"}),
    "base64": Probed(lengths, {"type": "string", "codec": "base64"}),
    "stream": Probed(lengths, PACKED),
    "yolo": Probed(fresh_heads, PACKED),
    "request": Probed(echo, {"type": "request"}),
    "tensor": Probed(sums, {"type": "tensor"}, FLOATS),
    "doubles": Probed(sums, DOUBLES),
    "float32": Probed(lambda items: random_numbers(items, "float32"), DOUBLES),
    "int8": Probed(lambda items: random_numbers(items, "int8"), DOUBLES),
    "detections": Probed(detections, DOUBLES),
    "sentences": Probed(lambda items: ["word " * int(item[0]) for item in items], DOUBLES),
    "failing": Probed(failing, IMAGE),
    "late": Probed(late, IMAGE, None, SHORT),
}

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


def in_form(name: str, data: bytes, more: str = "") -> bytes:
    head = f'--B\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return head.encode() + data + b"\r\n--B--\r\n"


# One encoded image.


def _body(path: str, model: str, image: bytes, kind: str) -> Request:
    return Request(model, path.format(model), image, kind)


def _upload(path: str, field: str, model: str, image: bytes, kind: str) -> Request:
    body = in_form(field, image, f'; filename="a"\r\nContent-Type: {kind}')
    return Request(model, path.format(model), body, FORM)


def _base64(form: str, model: str, image: bytes, kind: str) -> Request:
    return image_in_json(form, model, image)


def _gzip(model: str, image: bytes, kind: str) -> Request:
    request = _base64("TensorFlow Serving", model, image, kind)
    body = gzip.compress(request.body, 1)
    return request._replace(body=body, headers={"content-encoding": "gzip"})


def _feedback(model: str, image: bytes, kind: str) -> Request:
    body = {"uid": 1, "input": b64encode(image).decode(), "label": 1.0}
    return Request(model, "/update", dump(body))


def _element(model: str, image: bytes, kind: str) -> Request:
    return tensor(model, "BYTES", [1, 1], len(image).to_bytes(4, "little") + image)


WHOLE: Final[Forms] = {
    "raw": partial(_body, "/invocations"),
    "runtime": partial(_body, "/endpoints/{}/invocations"),
    "stream": partial(_body, "/endpoints/{}/invocations-response-stream"),
    "Multi Model Server": partial(_body, "/predictions/{}"),
    "form, Multi Model Server": partial(_upload, "/predictions/{}", "data"),
    "Clipper": partial(_base64, "Clipper"),
    "Open Inference, binary": _element,
}
"""What a model of whole requests takes too."""

ALL_IMAGE_FORMS: Final[Forms] = {
    **WHOLE,
    **{name: partial(_base64, name) for name in JSON_FORMS},
    "gzip, TensorFlow Serving": _gzip,
    "feedback": _feedback,
    "form, simple_tensorflow_serving": partial(_upload, "", "images"),
    "a browser's form": partial(_upload, "/run_image_inference", "images"),
    "Open Inference, raw": lambda model, image, kind: Request(
        model, f"/v2/models/{model}/infer", image, OCTETS, {LENGTH: "0"}
    ),
    "Open Inference, JSON": lambda model, image, kind: tensor(
        model, "BYTES", [1, 1], [b64encode(image).decode()]
    ),
}


# Rows of numbers, from an array (N, length).


def _numbers(model: str, array: Array) -> Request:
    return tensor(model, "FP64" if model in VECTORS else "FP32", array.shape, array.tolist())


def _deflated(model: str, array: Array) -> Request:
    request = _numbers(model, array)
    headers = {"content-encoding": "deflate", "accept-encoding": "gzip"}
    return request._replace(body=zlib.compress(request.body, 1), headers=headers)


ALL_NUMBER_FORMS: Final[Forms] = {
    **NUMBER_FORMS,
    "CSV": lambda model, array: Request(
        model, "/invocations", "\n".join(str(row)[1:-1] for row in array.tolist()).encode(), CSV
    ),
    "lines": lambda model, array: Request(
        model, "/invocations", b"\n".join(map(dump, array.tolist())), LINES
    ),
    "Open Inference, JSON": _numbers,
    "Open Inference, deflate": _deflated,
}


# Answers of so many values, which the one number that is sent says.

ALL_ANSWER_FORMS: Final[Forms] = {
    **ANSWER_FORMS,
    "stream": lambda model, count: Request(
        model,
        f"/endpoints/{model}/invocations-response-stream",
        b"[%d.0]" % count,
        headers={"x-amzn-sagemaker-accept": NPY},
    ),
    "Open Inference, JSON": lambda model, count: tensor(model, "FP64", [1, 1], [[float(count)]]),
    "Open Inference, binary": lambda model, count: tensor(
        model, "FP64", [1, 1], np.array([count], np.float64).tobytes()
    ),
}


# Many items in little text, of so many bytes.


def _texts(form: str, length: int) -> Request:
    return in_json(form, "string", [b'"a"'] * min(MOST_ITEMS, length // 4))


TEXT_FORMS: Final[Forms] = {
    **{name: partial(_texts, name) for name in JSON_FORMS},
    "text": lambda length: Request("string", "/invocations", b"a" * length, "text/plain"),
    "escapes": lambda length: in_json("Clipper", "string", [b'"%s"' % (b"\\n" * (length // 2))]),
    "long": lambda length: in_json("Clipper", "string", [b'"%s"' % (b"A" * 4 * length)]),
    "Open Inference, binary": lambda length: tensor(
        "string", "BYTES", [count := min(MOST_ITEMS, length // 5)], b"\1\0\0\0a" * count
    ),
}


def _tiny_list(length: int) -> Request:
    text = b'"%s"' % b64encode(pictures.png(4))
    return in_json("SageMaker", "original", [text] * min(MOST_ITEMS, length // len(text)))


TINY_FORMS: Final[Forms] = {
    "a stream": lambda length: stream("stream", tiny(), min(MOST_ITEMS, length // len(tiny()))),
    "a list": _tiny_list,
    "a GIF of comments": lambda _: Request(
        "bytes",
        "/invocations",
        b"GIF89a\x10\0\x10\0\0\0\0\x21\xfe" + b"\1a" * 8180 + b"\0\x2c" + b"\0" * 9,
        "image/gif",
    ),
    "a JPEG of segments": lambda _: Request(
        "bytes",
        "/invocations",
        b"\xff\xd8" + b"\xff\xe0\0\2" * 990 + pictures.jpeg(16)[2:],
        "image/jpeg",
    ),
}

# Sent in vain.

CUT: Final = dump(np.random.default_rng(0).random((1000, 200)).tolist())[:-1]


def _fields(length: int) -> bytes:
    part = b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
    return part * min(MOST_ITEMS, length // 55) + b"--B--\r\n"


def _refused(path: str, body: bytes, kind: str = JSON, status: int = 400) -> Make:
    return lambda: Request("tensor", path, body, kind, status=status)


UPLOADS: Final = "/predictions/tensor"
FAULTS: Final[Mapping[str, Make]] = {
    "cut JSON, SageMaker": _refused("/invocations", CUT),
    "cut JSON, Clipper": _refused("/predict", b'{"input": ' + CUT),
    "cut JSON, TensorFlow Serving": _refused(PREDICT.format("tensor"), b'{"instances": ' + CUT),
    "cut JSON, Open Inference": _refused("/v2/models/tensor/infer", CUT),
    "examples": _refused(
        "/v1/models/tensor:classify", b'{"examples":[%s{}]}' % (b'{"input":[1.5]},' * MOST_ITEMS)
    ),
    "deep JSON": _refused("/invocations", b"[" * 4_000_000),
    "not UTF-8": _refused("/invocations", b'"' + b"\xff" * 4_000_000 + b'"'),
    "a string": _refused("/predict", dump({"input": "\u00e9" * 3_000_000})),
    "unknown path": _refused("/predic", CUT, status=404),
    "unknown method": _refused("/ping", CUT, status=405),
    "unknown type": _refused("/invocations", CUT, "image/png", 415),
    "cut form": _refused("", in_form("images", CUT)[:-3], FORM),
    "fields of a form": _refused(UPLOADS, _fields(1 << 20), FORM),
    "a field of line ends": _refused(UPLOADS, in_form("a", b"\r\n--" * INLINE_BYTES), FORM),
    "fields, urlencoded": _refused(UPLOADS, b"a=1&" * MOST_ITEMS, ESCAPED),
    "escapes": _refused(UPLOADS, b"a=" + b"%31" * INLINE_BYTES, ESCAPED),
    "too many escapes": _refused(UPLOADS, b"a=" + b"%31" * 8_000_000, ESCAPED, 413),
    "a secret": _refused("/model-secure", b"a&" * 2_000_000, ESCAPED),
    "a form for a client": _refused("/run_generate_clients", in_form("language", CUT), FORM),
    "a list of models": _refused("/v2/repository/index", CUT),
    "a URL of a model": _refused("/models", CUT),
    "a call of the control plane": lambda: Request(
        "tensor", "/", CUT, JSON, {"x-amz-target": "SageMaker.DescribeEndpoint"}, 400
    ),
    "a query": lambda: Request("tensor", f"/predict?{'a=1&' * 250}a=1", method="GET", status=400),
}

WRONG_TEXTS: Final = {
    "foreign": "AAA?",
    "not ASCII": "AAA\u00e9",
    "length": "A",
    "padding": "A===",
    "both alphabets": "+/-_?",
}
"""At the end of base64 as long as is read in the event loop."""


def _wrong_base64(form: str, end: str) -> Request:
    item = b'{"b64":"%s"}' if form.startswith("TensorFlow") else b'"%s"'
    request = in_json(form, "bytes", [item % ("A" * 250_000 + end).encode()])
    # Cluster Serving's own answer is 500, as upstream's is.
    return request._replace(status=ANY_STATUS if form.startswith("Cluster") else 400)


DOCUMENTS: Final = (
    *(
        "",
        "/openapi.json",
        "/metrics",
        "/ping",
        "/v2",
        "/v1/models",
        "/models",
        "/v1/models/tensor",
    ),
    *("/v1/models/tensor/metadata", "/v2/models/tensor", "/v2/models/tensor/config"),
    *("/v2/models/tensor/stats", "/api-description", "/image_inference", "/json_inference"),
    *("/generate_clients", "/v1/models/tensor/gen_client?language=python"),
)


@cache
def large_photo() -> bytes:
    """Return a PNG of 8 MB."""
    return pictures.png(1800)


@cache
def tiny() -> bytes:
    return pictures.jpeg(16)


def images(
    group: str, model: str, image: Callable[[], bytes], kind: str, status: int | None = 200
) -> dict[str, Make]:
    forms = WHOLE if model == "request" else ALL_IMAGE_FORMS
    return cases(group, forms, model, image, kind, status=status)


BODIES: Final[Mapping[str, Make]] = {
    **images("photo", "image", photo, "image/jpeg"),
    **images("large photo", "image", large_photo, "image/png"),
    **images("large bytes", "bytes", large_photo, "image/png"),
    **images("large base64", "base64", large_photo, "image/png"),
    **images("large request", "request", large_photo, "image/png"),
    **cases("many rows", ALL_NUMBER_FORMS, "tensor", lambda: numbers(1000, 200)),
    **cases("long rows", ALL_NUMBER_FORMS, "tensor", lambda: numbers(10, 50_000)),
    **cases("many vectors", ALL_NUMBER_FORMS, "doubles", lambda: numbers(1000, 200)),
    "ten, for 54.8 MB": lambda: stream("yolo", photo(), 10, NPY),
    "ten, for text that is too large": lambda: stream("yolo", photo(), 10)._replace(status=406),
    "a hundred": lambda: stream("stream", photo(), 100),
    "a thousand": lambda: stream("stream", tiny(), 1000),
}
ANSWERS: Final[Mapping[str, Make]] = {
    **cases("float32", ALL_ANSWER_FORMS, "float32", 300_000),
    **cases("int8", ALL_ANSWER_FORMS, "int8", 300_000),
    **cases("detections", ALL_ANSWER_FORMS, "detections", 50_000, status=None),
    **cases("sentences", ALL_ANSWER_FORMS, "sentences", 1_000_000, status=None),
}
OTHERS: Final[Mapping[str, Make]] = {
    **FAULTS,
    **{
        f"{fault}, {form}": partial(_wrong_base64, form, end)
        for fault, end in WRONG_TEXTS.items()
        for form in ("SageMaker", "Clipper", "TensorFlow Serving", "Cluster Serving")
    },
    **{
        f"GET {path}": partial(
            Request, "tensor", path, headers={"accept": "text/html"}, method="GET"
        )
        for path in DOCUMENTS
    },
}


def _dense(length: int) -> dict[str, Make]:
    """Return requests of so many bytes."""
    rows, most = min(MOST_ITEMS, length // 4), length // 4
    found: dict[str, Make] = {}
    for model in ("tensor", "doubles"):
        for shape in ((rows, 1), (1, most)):
            group = f"{model} of {shape[0]} x {shape[1]}"
            array = partial(np.ones, shape, np.float32)
            found |= cases(group, ALL_NUMBER_FORMS, model, array, status=None)
    found |= cases(f"text of {length}", TEXT_FORMS, length, status=None)
    return found | cases(f"images of {length}", TINY_FORMS, length, status=None)


DENSE: Final[Mapping[str, Make]] = {
    **_dense(INLINE_BYTES),
    **_dense(16 * INLINE_BYTES),
    **cases("few float32", ALL_ANSWER_FORMS, "float32", INLINE_BYTES // 4, status=None),
    **cases("few int8", ALL_ANSWER_FORMS, "int8", INLINE_BYTES // 4, status=None),
    **cases("few detections", ALL_ANSWER_FORMS, "detections", 50, status=None),
    **cases("few sentences", ALL_ANSWER_FORMS, "sentences", INLINE_BYTES // 5, status=None),
}
FAILURES: Final = images("failing", "failing", photo, "image/jpeg", ANY_STATUS)
CASES: Final = {**BODIES, **ANSWERS, **OTHERS, **DENSE, **FAILURES}


def mixed(seed: int) -> list[Request]:
    """Return requests of all kinds and sizes, others for each seed."""
    known = {**BODIES, **ANSWERS, **OTHERS}
    return [make() for make in random.Random(seed).sample([*known.values()], 16)]
