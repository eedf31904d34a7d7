"""Large requests of every protocol, within the limits that a model has by default."""

from __future__ import annotations

import gzip
import json
import zlib
from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, Final, NamedTuple, TypeAlias
from urllib.parse import quote_from_bytes

import numpy as np

from rayserve_app.bench import pictures
from rayserve_app.codecs import npy, packed_jpeg
from rayserve_app.types import Array

JSON: Final = "application/json"
OCTETS: Final = "application/octet-stream"
NPY: Final = "application/x-npy"
CSV: Final = "text/csv"
FORM: Final = "multipart/form-data; boundary=B"
STREAM: Final = "application/x-packed-jpeg"
ESCAPED: Final = "application/x-www-form-urlencoded"
LENGTH: Final = "inference-header-content-length"


VECTORS: Final = ("doubles", "float32", "int8", "detections", "sentences")
IMAGES: Final = ("image", "original", "stream", "yolo", "failing", "late")
INPUTS: Final = {
    **dict.fromkeys(IMAGES, "image"),
    **dict.fromkeys(("string", "base64"), "string"),
    **dict.fromkeys(VECTORS, "doubles"),
    **{name: name for name in ("bytes", "request")},
}
"""What models call their input, if not `input`."""


ANY_STATUS: Final = 0


class Request(NamedTuple):
    """One request to one of the models, below its prefix."""

    model: str
    path: str
    body: bytes = b""
    content_type: str | None = None
    headers: Mapping[str, str] = {}
    status: int | None = 200
    """Of the answer; None for any but an error of the server's own, ANY_STATUS for that too."""
    method: str = "POST"


Make: TypeAlias = Callable[[], Request]


@cache
def photo() -> bytes:
    """Return a JPEG of 130 KB."""
    return pictures.jpeg(512)


@cache
def large_photo() -> bytes:
    """Return a PNG of 8 MB."""
    return pictures.png(1800)


@cache
def numbers(*shape: int) -> Array:
    return np.random.default_rng(0).random(shape, np.float32)


def text(data: bytes) -> str:
    return b64encode(data).decode()


def dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def form(name: str, data: bytes, more: str = "") -> bytes:
    head = f'--B\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return head.encode() + data + b"\r\n--B--\r\n"


def tensor(model: str, datatype: str, shape: list[int], data: Any, **more: Any) -> Request:
    """Return a request of the Open Inference Protocol, of JSON or of binary data."""
    fields: dict[str, Any] = {
        "name": INPUTS.get(model, "input"),
        "datatype": datatype,
        "shape": shape,
    }
    path = f"/v2/models/{model}/infer"
    if not isinstance(data, bytes):
        fields["data"] = data
        return Request(model, path, dump({"inputs": [fields], **more}), JSON)
    fields["parameters"] = {"binary_data_size": len(data)}
    head = dump({"inputs": [fields], "parameters": {"binary_data_output": True}, **more})
    return Request(model, path, head + data, OCTETS, {LENGTH: str(len(head))})


def element(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


def images(model: str, image: Callable[[], bytes], kind: str) -> dict[str, Make]:
    """Return one encoded image in the requests of each protocol."""
    serving = f"/v1/models/{model}:predict"
    triton = f"/v2/models/{model}/infer"
    upload = f'; filename="a"\r\nContent-Type: {kind}'
    versioned = f"/models/{model}/versions/1/predict"
    return {
        "raw": lambda: Request(model, "/invocations", image(), kind),
        "base64, SageMaker": lambda: Request(model, "/invocations", dump(text(image())), JSON),
        "runtime": lambda: Request(model, f"/endpoints/{model}/invocations", image(), kind),
        "stream": lambda: Request(
            model, f"/endpoints/{model}/invocations-response-stream", image(), kind
        ),
        "Multi Model Server": lambda: Request(model, f"/predictions/{model}", image(), kind),
        "form, Multi Model Server": lambda: Request(
            model, f"/predictions/{model}", form("data", image(), upload), FORM
        ),
        "Clipper": lambda: Request(model, "/predict", dump({"input": text(image())}), JSON),
        "feedback": lambda: Request(
            model, "/update", dump({"uid": 1, "input": text(image()), "label": 1.0}), JSON
        ),
        "Cluster Serving": lambda: Request(
            model, versioned, dump({"instances": [{"image": text(image())}]}), JSON
        ),
        "TensorFlow Serving": lambda: Request(
            model, serving, dump({"instances": [{"b64": text(image())}]}), JSON
        ),
        "TensorFlow Serving, inputs": lambda: Request(
            model, serving, dump({"inputs": [{"b64": text(image())}]}), JSON
        ),
        "gzip, TensorFlow Serving": lambda: Request(
            model,
            serving,
            gzip.compress(dump({"instances": [{"b64": text(image())}]}), 1),
            JSON,
            {"content-encoding": "gzip"},
        ),
        "form, simple_tensorflow_serving": lambda: Request(
            model, "", form("images", image(), upload), FORM
        ),
        "base64, simple_tensorflow_serving": lambda: Request(
            model, "", dump({"data": {"input": [text(image())]}}), JSON
        ),
        "a browser's form, simple_tensorflow_serving": lambda: Request(
            model, "/run_image_inference", form("images", image(), upload), FORM
        ),
        "Open Inference, binary": lambda: tensor(model, "BYTES", [1, 1], element(image())),
        "Open Inference, raw": lambda: Request(model, triton, image(), OCTETS, {LENGTH: "0"}),
        "Open Inference, JSON": lambda: tensor(model, "BYTES", [1, 1], [text(image())]),
    }


def tensors(model: str, count: int, length: int) -> dict[str, Make]:
    """Return many rows of floats in the requests of each protocol."""

    def rows() -> Any:
        return numbers(count, length).round(7).tolist()

    datatype = "FP64" if model in VECTORS else "FP32"

    def own(*shape: int) -> bytes:
        """Return the numbers as the model counts."""
        return numbers(*shape).astype("<f8" if model in VECTORS else "<f4").tobytes()

    shape = [count, length]
    triton = f"/v2/models/{model}/infer"
    return {
        "JSON": lambda: Request(model, "/invocations", dump(rows()), JSON),
        "CSV": lambda: Request(
            model, "/invocations", "\n".join(str(row)[1:-1] for row in rows()).encode(), CSV
        ),
        ".npy": lambda: Request(
            model, "/invocations", b"".join(npy.encode(numbers(count, length))), NPY
        ),
        "JSON Lines": lambda: Request(
            model, "/invocations", b"\n".join(map(dump, rows())), "application/jsonlines"
        ),
        "Clipper": lambda: Request(model, "/predict", dump({"input_batch": rows()}), JSON),
        "Cluster Serving": lambda: Request(
            model,
            f"/models/{model}/versions/1/predict",
            dump({"instances": [{"input": row} for row in rows()]}),
            JSON,
        ),
        "TensorFlow Serving": lambda: Request(
            model, f"/v1/models/{model}:predict", dump({"instances": rows()}), JSON
        ),
        "TensorFlow Serving, inputs": lambda: Request(
            model, f"/v1/models/{model}:predict", dump({"inputs": rows()}), JSON
        ),
        "simple_tensorflow_serving": lambda: Request(
            model, "", dump({"data": {"input": rows()}}), JSON
        ),
        "Open Inference, JSON": lambda: tensor(model, datatype, shape, rows()),
        "Open Inference, binary": lambda: tensor(model, datatype, shape, own(count, length)),
        "Open Inference, deflate": lambda: tensor(model, datatype, shape, rows())._replace(
            body=zlib.compress(tensor(model, datatype, shape, rows()).body, 1),
            headers={"content-encoding": "deflate", "accept-encoding": "gzip"},
        ),
        "Open Inference, raw": lambda: Request(
            model, triton, own(1, length), OCTETS, {LENGTH: "0"}
        ),
    }


def streams(large_answers: str, small_answers: str) -> dict[str, Make]:
    """Return packed streams, to models of large and of small answers."""

    def post(model: str, image: bytes, count: int, accept: str) -> Request:
        body = packed_jpeg.encode([image] * count)
        return Request(model, "/invocations", body, STREAM, {"accept": accept})

    tiny = pictures.jpeg(16)
    return {
        "ten, for 54.8 MB": lambda: post(large_answers, photo(), 10, NPY),
        "ten, for text that is too large": lambda: post(large_answers, photo(), 10, JSON)._replace(
            status=406
        ),
        "a hundred": lambda: post(small_answers, photo(), 100, JSON),
        "a thousand": lambda: post(small_answers, tiny, 1000, JSON),
    }


def requests(model: str, image: Callable[[], bytes], kind: str) -> dict[str, Make]:
    """Return one encoded image in the requests that a model of whole requests takes."""
    found = images(model, image, kind)
    names = ("raw", "runtime", "stream", "Multi Model Server", "form, Multi Model Server")
    return {name: found[name] for name in (*names, "Clipper", "Open Inference, binary")}


def answers(model: str, count: int) -> dict[str, Make]:
    """Return small requests for answers of so many values, in the forms of each protocol."""
    ask = b"[%d.0]" % count
    forms = {"JSON": JSON, "CSV": CSV, ".npy": NPY, "raw": OCTETS, "lines": "application/jsonlines"}
    return {
        **{
            name: lambda kind=kind: Request(  # type: ignore[misc]
                model, "/invocations", ask, JSON, {"accept": kind}
            )
            for name, kind in forms.items()
        },
        "stream": lambda: Request(
            model,
            f"/endpoints/{model}/invocations-response-stream",
            ask,
            JSON,
            {"x-amzn-sagemaker-accept": NPY},
        ),
        "Clipper": lambda: Request(model, "/predict", b'{"input": %s}' % ask, JSON),
        "Cluster Serving": lambda: Request(
            model,
            f"/models/{model}/versions/1/predict",
            b'{"instances": [{"input": %s}]}' % ask,
            JSON,
        ),
        "TensorFlow Serving": lambda: Request(
            model, f"/v1/models/{model}:predict", b'{"instances": [%s]}' % ask, JSON
        ),
        "simple_tensorflow_serving": lambda: Request(
            model, "", b'{"data": {"input": [%s]}}' % ask, JSON
        ),
        "Open Inference, JSON": lambda: tensor(model, "FP64", [1, 1], [[float(count)]]),
        "Open Inference, binary": lambda: tensor(
            model, "FP64", [1, 1], np.array([count], np.float64).tobytes()
        ),
    }


def broken_base64(model: str) -> dict[str, Make]:
    """Return base64 that is wrong at its end, as long as is read in the event loop."""
    whole = "A" * 250_000
    texts = {
        "foreign": whole + "AAA?",
        "no ASCII": whole + "AAA\u00e9",
        "length": whole + "A",
        "padding": whole + "A===",
        "both alphabets": whole + "+/-_?",
    }
    bodies: dict[str, Callable[[str], tuple[str, Any]]] = {
        "SageMaker": lambda text: ("/invocations", text),
        "SageMaker, b64": lambda text: ("/invocations", {"b64": text}),
        "SageMaker, data": lambda text: ("/invocations", {"data": text}),
        "Clipper": lambda text: ("/predict", {"input": text}),
        "TensorFlow Serving": lambda text: (
            f"/v1/models/{model}:predict",
            {"instances": [{"b64": text}]},
        ),
        "Cluster Serving": lambda text: ("/predict", {"instances": [{"image": text}]}),
    }

    def request(path: str, value: Any) -> Request:
        body = json.dumps(value, ensure_ascii=False).encode()
        return Request(model, path, body, JSON, status=400)

    found: dict[str, Make] = {
        f"{fault}, {protocol}": partial(request, *body(text))
        for fault, text in texts.items()
        for protocol, body in bodies.items()
    }
    control = b'"%s\n"' % whole.encode()
    found["control"] = lambda: Request(model, "/invocations", control, JSON, status=400)
    return found


def faults(model: str) -> dict[str, Make]:
    """Return large requests that are refused."""

    def cut() -> bytes:
        return dump(numbers(1000, 200).tolist())[:-1]

    def refused(path: str, body: bytes, content_type: str = JSON, status: int = 400) -> Request:
        return Request(model, path, body, content_type, status=status)

    return {
        "cut JSON, SageMaker": lambda: refused("/invocations", cut()),
        "cut JSON, Clipper": lambda: refused("/predict", b'{"input": ' + cut()),
        "cut JSON, TensorFlow Serving": lambda: refused(
            f"/v1/models/{model}:predict", b'{"instances": ' + cut()
        ),
        "cut JSON, Open Inference": lambda: refused(f"/v2/models/{model}/infer", cut()),
        "deep JSON": lambda: refused("/invocations", b"[" * 4_000_000),
        "no UTF-8": lambda: refused("/invocations", b'"' + b"\xff" * 4_000_000 + b'"'),
        "a string": lambda: refused("/predict", dump({"input": "\u00e9" * 3_000_000})),
        "no path": lambda: refused("/predic", cut(), status=404),
        "no method": lambda: refused("/ping", cut(), status=405),
        "no type": lambda: refused("/invocations", large_photo(), "image/png", status=415),
        "cut form": lambda: refused("", form("images", large_photo())[:-3], FORM),
        "escapes": lambda: refused(
            f"/predictions/{model}", b"a=" + quote_from_bytes(large_photo()).encode(), ESCAPED
        )._replace(status=413),
        "a secret": lambda: Request(model, "/model-secure", b"a&" * 2_000_000, ESCAPED, status=400),
        "a form for a client": lambda: refused(
            "/run_generate_clients", form("language", large_photo()), FORM
        ),
        "a list of models": lambda: refused("/v2/repository/index", cut()),
        "an URL of a model": lambda: refused("/models", cut()),
        "a call of the control plane": lambda: Request(
            model, "/", cut(), JSON, {"x-amz-target": "SageMaker.DescribeEndpoint"}, status=400
        ),
    }


def documents(model: str) -> dict[str, Make]:
    """Return what is asked of a model besides predictions."""
    paths = (
        *("", "/openapi.json", "/metrics", "/ping", "/v2", "/v1/models", "/models"),
        *(f"/v1/models/{model}", f"/v1/models/{model}/metadata", f"/v2/models/{model}"),
        *(f"/v2/models/{model}/config", f"/v2/models/{model}/stats", "/api-description"),
        *("/image_inference", "/json_inference", "/generate_clients", "/no/such/path"),
        *(f"/v1/models/{model}/gen_client?language={each}" for each in ("python", "bash")),
    )
    status = {"/no/such/path": 404}
    return {
        f"GET {path.replace(model, 'm')}": lambda path=path: Request(  # type: ignore[misc]
            model, path, headers={"accept": "text/html"}, method="GET", status=status.get(path, 200)
        )
        for path in paths
    }
