"""Requests as short as their work is long: of many values or items, in little text."""

from __future__ import annotations

import json
from typing import Any, Final

import numpy as np

from rayserve_app.bench import pictures
from rayserve_app.bench.event_loop.large import (
    CSV,
    ESCAPED,
    FORM,
    JSON,
    NPY,
    Make,
    Request,
    form,
    tensor,
    text,
)
from rayserve_app.codecs import npy, packed_jpeg

LINES: Final = "application/jsonlines"
STREAM: Final = "application/x-packed-jpeg"
MOST_ITEMS: Final = 999


def dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def array(element: bytes, length: int, most: int = 1 << 20) -> bytes:
    """Return so many bytes of JSON, an array of one element again and again."""
    count = min(most, (length - 1) // (len(element) + 1))
    return b"[" + b",".join([element] * count) + b"]"


def rows(element: bytes, length: int) -> bytes:
    return array(element, length, MOST_ITEMS)


def array_of_rows(count: int) -> bytes:
    return b"".join(npy.encode(np.zeros((count, 1), np.int8)))


def numbers(model: str, length: int) -> dict[str, Make]:
    """Return requests of so many bytes to a model of numbers."""
    serving = f"/v1/models/{model}"
    versioned = f"/models/{model}/versions/1/predict"
    part = b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
    count = length // 4 - 60

    def post(path: str, body: bytes, kind: str = JSON, status: int = 200) -> Request:
        return Request(model, path, body, kind, status=status)

    def document(path: str, key: str, value: bytes) -> Request:
        return post(path, b'{"%s":%s}' % (key.encode(), value))

    def upload(body: bytes, kind: str = FORM) -> Request:
        return post(f"/predictions/{model}", body, kind, 400)

    return {
        "integers": lambda: post("/invocations", array(b"1", length)),
        "numbers": lambda: post("/invocations", array(b"1.5", length)),
        "rows": lambda: post("/invocations", rows(b"[1]", length)),
        "rows of no type": lambda: Request(model, "/invocations", rows(b"[1]", length)),
        "rows beside a query": lambda: post("/predict?model_name=m", rows(b"[1]", length)),
        "CSV": lambda: post("/invocations", array(b"1", length)[1:-1], CSV),
        "rows of CSV": lambda: post("/invocations", b"1,1\n" * min(MOST_ITEMS, length // 4), CSV),
        "lines": lambda: post("/invocations", b"[1]\n" * min(MOST_ITEMS, length // 4), LINES),
        ".npy": lambda: post("/invocations", array_of_rows(min(MOST_ITEMS, length)), NPY),
        "Clipper": lambda: document("/predict", "input", array(b"1.5", length)),
        "Clipper, batch": lambda: document("/predict", "input_batch", rows(b"[1.5]", length)),
        "feedback": lambda: post(
            "/update", b'{"uid":1,"label":1.0,"input":%s}' % array(b"1.5", length)
        ),
        "TensorFlow Serving": lambda: document(
            f"{serving}:predict", "instances", b"[%s]" % array(b"1", length)
        ),
        "TensorFlow Serving, rows": lambda: document(
            f"{serving}:predict", "instances", rows(b"[1]", length)
        ),
        "TensorFlow Serving, inputs": lambda: document(
            f"{serving}:predict", "inputs", b"[%s]" % array(b"1", length)
        ),
        "TensorFlow Serving, examples": lambda: post(
            f"{serving}:classify",
            b'{"examples":%s}' % rows(b'{"input":[1.5],"doubles":[1.5]}', length),
            status=400,
        ),
        "Cluster Serving": lambda: document(
            versioned, "instances", b'[{"input":%s}]' % array(b"1", length)
        ),
        "Cluster Serving, rows": lambda: document(
            versioned, "instances", rows(b'{"input":[1]}', length)
        ),
        "simple_tensorflow_serving": lambda: document(
            "", "data", b'{"input":[%s]}' % array(b"1", length)
        ),
        "simple_tensorflow_serving, rows": lambda: document(
            "", "data", b'{"input":%s}' % rows(b"[1]", length)
        ),
        "Open Inference": lambda: tensor(model, "FP32", [1, count], [1.5] * count),
        "Open Inference, rows": lambda: tensor(
            model, "FP32", [min(MOST_ITEMS, count), 1], [1.5] * min(MOST_ITEMS, count)
        ),
        "Open Inference, binary rows": lambda: tensor(
            model, "FP32", [min(MOST_ITEMS, count), 1], b"\0\0\0\0" * min(MOST_ITEMS, count)
        ),
        "fields of a form": lambda: upload(part * min(MOST_ITEMS, length // 55) + b"--B--\r\n"),
        "a field of line ends": lambda: upload(form("a", b"\r\n--" * (length // 4))),
        "fields, urlencoded": lambda: upload(b"a=1&" * min(MOST_ITEMS, length // 4), ESCAPED),
        "escapes": lambda: upload(b"a=" + b"%31" * (length // 3), ESCAPED),
        "a query": lambda: Request(
            model, f"/predict?{'a=1&' * min(250, length // 4)}a=1", method="GET", status=400
        ),
    }


def strings(length: int) -> dict[str, Make]:
    """Return requests of so many bytes to a model of strings."""
    count = min(MOST_ITEMS, length // 5)
    element = b"\1\0\0\0a"

    def post(path: str, body: bytes, kind: str = JSON) -> Request:
        return Request("string", path, body, kind)

    return {
        "list": lambda: post("/invocations", rows(b'"a"', length)),
        "text": lambda: post("/invocations", b"a" * length, "text/plain"),
        "Clipper": lambda: post("/predict", b'{"input_batch":%s}' % rows(b'"a"', length)),
        "Clipper, escapes": lambda: post("/predict", b'{"input":"%s"}' % (b"\\n" * (length // 2))),
        "Clipper, long": lambda: post("/predict", b'{"input":"%s"}' % (b"A" * 4 * length)),
        "TensorFlow Serving": lambda: post(
            "/v1/models/string:predict", b'{"instances":%s}' % rows(b'"a"', length)
        ),
        "Cluster Serving": lambda: post(
            "/models/string/versions/1/predict", b'{"instances":%s}' % rows(b'{"a":"a"}', length)
        ),
        "simple_tensorflow_serving": lambda: post(
            "", b'{"data":{"string":%s}}' % rows(b'"a"', length)
        ),
        "Open Inference": lambda: tensor("string", "BYTES", [count], ["a"] * count),
        "Open Inference, binary": lambda: tensor("string", "BYTES", [count], element * count),
    }


def tiny_images(length: int) -> dict[str, Make]:
    """Return requests of so many bytes with many images."""
    png = pictures.png(4)
    count = min(MOST_ITEMS, length // len(png))
    element = len(png).to_bytes(4, "little") + png
    packed = packed_jpeg.encode([png] * count)
    listed = dump([text(png)] * min(MOST_ITEMS, length * 3 // 4 // len(png)))
    gif = b"GIF89a\x10\0\x10\0\0\0\0\x21\xfe" + b"\1a" * 8180 + b"\0\x2c" + b"\0" * 9
    segments = b"\xff\xd8" + b"\xff\xe0\0\2" * 990 + pictures.jpeg(16)[2:]
    return {
        "a stream": lambda: Request("stream", "/invocations", packed, STREAM, {"accept": NPY}),
        "a list": lambda: Request("original", "/invocations", listed, JSON),
        "Open Inference": lambda: tensor("original", "BYTES", [count, 1], element * count),
        "a GIF of comments": lambda: Request("bytes", "/invocations", gif, "image/gif"),
        "a JPEG of segments": lambda: Request("bytes", "/invocations", segments, "image/jpeg"),
    }


def results(model: str, count: int) -> dict[str, Make]:
    """Return requests for results of so many values."""
    return {
        "JSON": lambda: Request(model, "/invocations", b"[%d]" % count, JSON, {"accept": JSON}),
        "CSV": lambda: Request(model, "/invocations", b"[%d]" % count, JSON, {"accept": CSV}),
        "lines": lambda: Request(model, "/invocations", b"[%d]" % count, JSON, {"accept": LINES}),
        "Clipper": lambda: Request(model, "/predict", b'{"input":[%d.0]}' % count, JSON),
        "Cluster Serving": lambda: Request(
            model,
            f"/models/{model}/versions/1/predict",
            b'{"instances":[{"input":[%d]}]}' % count,
            JSON,
        ),
        "TensorFlow Serving": lambda: Request(
            model, f"/v1/models/{model}:predict", b'{"instances":[[%d]]}' % count, JSON
        ),
        "simple_tensorflow_serving": lambda: Request(
            model, "", b'{"data":{"input":[[%d]]}}' % count, JSON
        ),
        "Open Inference": lambda: tensor(model, "FP64", [1, 1], [float(count)]),
    }
