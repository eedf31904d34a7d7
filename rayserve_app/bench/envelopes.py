"""One image in the requests of each protocol, as its clients send it, and the size that their
answers hold."""

from __future__ import annotations

import json
import struct
from ast import literal_eval
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from rayserve_app.bench.connection import Answer
from rayserve_app.bench.load import Target

JSON: Final = "application/json"

BOUNDARY: Final = "0123456789abcdef0123456789abcdef"
"""As requests and urllib3 make one: 32 hexadecimal digits."""

LENGTH_HEADER: Final = "Inference-Header-Content-Length"


def read_json(answer: Answer) -> Any:
    return json.loads(answer.body)


@dataclass(frozen=True)
class Envelope:
    """One image as one protocol carries it."""

    name: str
    path: str
    """Below the server's root: as the model has it under its prefix, without that."""
    content_type: str
    body: bytes
    read: Callable[[Answer], Any] = read_json
    """Returns the image's width and height, from an answer."""
    headers: Mapping[str, str] = field(default_factory=dict)
    repeats: bool = True
    """Whether the same request gets the same answer again, byte by byte."""

    def target(self, url: str) -> Target:
        """Return the request to a model or a gateway, whose paths begin at the URL."""
        return Target.post(url + self.path, self.body, self.content_type, headers=self.headers)


def raw_body(image: bytes, media_type: str) -> Envelope:
    """Return the image as the body itself: the least that carries it."""
    return Envelope("raw body", "/invocations", media_type, image)


def base64_json(image: bytes) -> Envelope:
    """Return the image as SageMaker's clients send it in JSON: one string, in base64."""
    return _in_json("base64 JSON, SageMaker", "/invocations", b64encode(image).decode())


def all_envelopes(
    image: bytes, media_type: str, model: str, input_name: str = "bytes"
) -> list[Envelope]:
    """Return the raw body, and then the image in each protocol's own envelope."""
    text = b64encode(image).decode()
    return [
        raw_body(image, media_type),
        base64_json(image),
        # Clipper's output is `str()` of the closure's result; each answer has the next number as
        # its `query_id`.
        _in_json(
            "base64 JSON, Clipper",
            "/predict",
            {"input": text},
            lambda answer: [*literal_eval(read_json(answer)["output"])],
            repeats=False,
        ),
        _in_json(
            '{"b64"}, TensorFlow Serving',
            f"/v1/models/{model}:predict",
            {"instances": [{"b64": text}]},
            lambda answer: read_json(answer)["predictions"][0],
        ),
        _binary_tensor(image, model, input_name),
        # What `requests.post(url, files={"images": …})` sends.
        Envelope(
            "form upload, simple_tensorflow_serving",
            "/",
            f"multipart/form-data; boundary={BOUNDARY}",
            form(image, media_type),
            lambda answer: next(iter(read_json(answer).values()))[0],
        ),
        # A prediction is a text that holds JSON whose `value` holds JSON again.
        _in_json(
            "base64 JSON, Cluster Serving",
            "/predict",
            {"instances": [{"image": text}]},
            lambda answer: json.loads(json.loads(read_json(answer)["predictions"][0])["value"])[
                "data"
            ],
        ),
    ]


def _in_json(
    name: str, path: str, value: Any, read: Callable[[Answer], Any] = read_json, **more: Any
) -> Envelope:
    return Envelope(name, path, JSON, json.dumps(value).encode(), read, **more)


def _binary_tensor(image: bytes, model: str, input_name: str) -> Envelope:
    """Return what tritonclient sends: JSON that describes a BYTES tensor, then its one element; the
    answer has one likewise, which holds JSON: a length, and as many bytes."""
    element = struct.pack("<I", len(image)) + image
    size = {"binary_data_size": len(element)}
    tensor = {"name": input_name, "shape": [1, 1], "datatype": "BYTES", "parameters": size}
    inputs = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    document = json.dumps(inputs).encode()
    return Envelope(
        "binary tensor, Open Inference",
        f"/v2/models/{model}/infer",
        "application/octet-stream",
        document + element,
        lambda answer: json.loads(answer.body[int(answer.header(LENGTH_HEADER)) + 4 :]),
        {LENGTH_HEADER: str(len(document))},
    )


def form(image: bytes, media_type: str) -> bytes:
    """Return the image as the file `images` of a form."""
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="image"\r\n'
        f"Content-Type: {media_type}\r\n\r\n"
    )
    return head.encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()
