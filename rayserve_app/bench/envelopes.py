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

from rayserve_app.bench.answer import WholeAnswer
from rayserve_app.bench.load import Target

JSON: Final = "application/json"

BOUNDARY: Final = "0123456789abcdef0123456789abcdef"
"""As requests and urllib3 make one: 32 hexadecimal digits."""

LENGTH_HEADER: Final = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Envelope:
    """One image as one protocol carries it."""

    name: str
    path: str
    """Below the server's root: as the model has it under its prefix, without that."""
    content_type: str
    body: bytes
    read: Callable[[WholeAnswer], Any]
    """Returns the image's width and height, from an answer."""
    headers: Mapping[str, str] = field(default_factory=dict)
    repeats: bool = True
    """Whether the same request gets the same answer again, byte by byte."""

    def target(self, url: str) -> Target:
        """Return the request to a model or a gateway, whose paths begin at the URL."""
        return Target.post(url + self.path, self.body, self.content_type, headers=self.headers)


def raw_body(image: bytes, media_type: str) -> Envelope:
    """Return the image as the body itself: the least that carries it."""
    return Envelope("raw body", "/invocations", media_type, image, _json)


def base64_json(image: bytes) -> Envelope:
    """Return the image as SageMaker's clients send it in JSON: one string, in base64."""
    text = b64encode(image).decode()
    return Envelope("base64 JSON, SageMaker", "/invocations", JSON, _dump(text), _json)


def all_envelopes(image: bytes, media_type: str, model: str) -> list[Envelope]:
    """Return the raw body, and then the image in each protocol's own envelope."""
    text = b64encode(image).decode()
    return [
        raw_body(image, media_type),
        base64_json(image),
        Envelope(
            "base64 JSON, Clipper",
            "/predict",
            JSON,
            _dump({"input": text}),
            # Clipper's output is `str()` of the closure's result.
            lambda answer: [*literal_eval(_json(answer)["output"])],
            # Each answer has the next number as its `query_id`.
            repeats=False,
        ),
        Envelope(
            '{"b64"}, TensorFlow Serving',
            f"/v1/models/{model}:predict",
            JSON,
            _dump({"instances": [{"b64": text}]}),
            lambda answer: _json(answer)["predictions"][0],
        ),
        _binary_tensor(image, model),
        _form(image, media_type),
        Envelope(
            "base64 JSON, Cluster Serving",
            "/predict",
            JSON,
            _dump({"instances": [{"image": text}]}),
            _read_cluster_serving,
        ),
    ]


def _binary_tensor(image: bytes, model: str) -> Envelope:
    """Return what tritonclient sends: JSON that describes a BYTES tensor, then its one element."""
    element = struct.pack("<I", len(image)) + image
    tensor = {
        "name": "bytes",
        "shape": [1, 1],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(element)},
    }
    document = _dump({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    return Envelope(
        "binary tensor, Open Inference",
        f"/v2/models/{model}/infer",
        "application/octet-stream",
        document + element,
        _read_binary_tensor,
        {LENGTH_HEADER: str(len(document))},
    )


def _form(image: bytes, media_type: str) -> Envelope:
    """Return what `requests.post(url, files={"images": …})` sends."""
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="image"\r\n'
        f"Content-Type: {media_type}\r\n\r\n"
    )
    return Envelope(
        "form upload, simple_tensorflow_serving",
        "/",
        f"multipart/form-data; boundary={BOUNDARY}",
        head.encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode(),
        lambda answer: next(iter(_json(answer).values()))[0],
    )


def _read_cluster_serving(answer: WholeAnswer) -> Any:
    """Read the first prediction: a text that holds JSON whose `value` holds JSON again."""
    prediction = _json(answer)["predictions"][0]
    return json.loads(json.loads(prediction)["value"])["data"]


def _read_binary_tensor(answer: WholeAnswer) -> Any:
    """Read the one element of the one output: a length, and as many bytes of JSON."""
    element = answer.body[int(answer.headers[LENGTH_HEADER.lower()]) :]
    return json.loads(element[4:])


def _json(answer: WholeAnswer) -> Any:
    return json.loads(answer.body)


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()
