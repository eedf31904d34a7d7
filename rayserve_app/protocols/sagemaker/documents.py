"""TensorFlow Serving's own documents, `{"instances": ...}` and `{"inputs": ...}`, at SageMaker's
paths: what its SDK sends to a TensorFlow model, which the container there hands on.

Source: aws/sagemaker-tensorflow-serving-container da19256, tensorflowServing.js.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from rayserve_app.codecs.tensorflow.container_headers import accepted_type
from rayserve_app.codecs.tensorflow.document import decode_document
from rayserve_app.errors import DecodeError, InvalidRequest, VersionNotFound
from rayserve_app.inference.model import Model
from rayserve_app.media_types import JSON, media_type
from rayserve_app.protocols.tensorflow_serving import rest
from rayserve_app.protocols.tensorflow_serving.queries import Query, Reader
from rayserve_app.types import Buffer
from rayserve_app.web.messages import Response

PLATFORM: Final = "tensorflow"

JSON_TYPES: Final = (JSON, "application/jsonlines", "application/jsons")

KEYS: Final = ("instances", "inputs", "examples")

KEY: Final = re.compile(rb'"(?:instances|inputs|examples)"\s*:')

HEAD_BYTES: Final = 1 << 12
"""Where one of the keys stands, if not first, then behind the signature's name, or the context that
examples share."""


def may_be_document(model: Model, body: Buffer, content_type: str | None) -> bool:
    """Return whether a body to a TensorFlow model could be such a document: a look that takes
    microseconds, and tells most others, which may be large."""
    if model.metadata.platform != PLATFORM or media_type(content_type) not in JSON_TYPES:
        return False
    head = bytes(body[:HEAD_BYTES])
    return head.lstrip()[:1] == b"{" and KEY.search(head) is not None


def read_document(model: Model, body: Buffer, *, version: str | None, method: str) -> Query | None:
    """Read such a document; None for another one.

    Raises:
        InvalidRequest, VersionNotFound: it does not fit the model; in TensorFlow Serving's words.
    """
    try:
        document = decode_document(body)
    except DecodeError:
        return None
    names = model.select(version).inputs.names
    if not any(key in document for key in KEYS) or _is_an_item(document, names):
        return None

    def select(signature: str | None) -> Reader:
        try:
            return Reader(model.select(version, signature))
        except VersionNotFound:
            raise
        except InvalidRequest as exc:
            raise rest.no_signature(signature) from exc

    return rest.take(method, document, select)


def as_accepted(answer: bytes, accept: str | None) -> Response:
    """Answer as the container does: on one line and with the first accepted type where JSON is
    accepted, else as TensorFlow Serving."""
    kind = accepted_type(accept)
    if kind is None:
        return Response(answer, media_type=JSON)
    return Response(answer.replace(b"\n", b""), media_type=kind)


def _is_an_item(document: Mapping[str, Any], names: tuple[str, ...]) -> bool:
    """Return whether the keys are the names of a model's several inputs."""
    return len(names) > 1 and document.keys() == set(names)
