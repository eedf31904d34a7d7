"""How a request names its model beside its path: in a header, in its query, in a form or in JSON.

Each protocol knows some of these ways. Here all count on every path that has no name in it, so that
no model answers in the place of the one that was meant.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from urllib.parse import parse_qsl

from rayserve_app.codecs import form, lenient_json
from rayserve_app.codecs.tensorflow import container_headers
from rayserve_app.errors import DecodeError, InvalidRequest
from rayserve_app.media_types import media_type
from rayserve_app.protocols.protocol import shortened
from rayserve_app.protocols.sagemaker import container
from rayserve_app.types import Buffer
from rayserve_app.web.messages import MAX_QUERY_PAIRS

TARGET_MODEL: Final = container.TARGET_MODEL.encode()

COMPONENT: Final = b"x-amzn-sagemaker-inference-component"

ATTRIBUTES: Final = container_headers.HEADER.encode()

KEY: Final = "model_name"
"""What simple_tensorflow_serving and Multi Model Server call it in queries and forms."""

FORMS: Final = (form.MULTIPART, form.URLENCODED)

INLINE_BYTES: Final = 1 << 16

# The TensorFlow container's `tfs-[a-z\-]+=[^,]+`; white space and `;` part attributes too.
_ATTRIBUTE: Final = re.compile(r"tfs-model-name=([^,;\s]+)")

_JSON: Final = ("application/json", "application/x-amz-json")


def archive_named(headers: Mapping[bytes, bytes]) -> str | None:
    """Return what the headers of a multi-model endpoint call the model, None if they do not."""
    if TARGET_MODEL not in headers and COMPONENT not in headers:
        return None
    return _one(
        headers[name].decode("latin-1").removeprefix("/")
        for name in (TARGET_MODEL, COMPONENT)
        if headers.get(name)
    )


def name_in_head(headers: Mapping[bytes, bytes], query: bytes) -> str | None:
    """Return the model's name in the query or in an attribute of the TensorFlow container's.

    Raises:
        InvalidRequest: there are two.
    """
    if ATTRIBUTES not in headers and not query:
        return None
    names = _ATTRIBUTE.findall(headers.get(ATTRIBUTES, b"").decode("latin-1"))
    if KEY.encode() in query:
        try:
            pairs = parse_qsl(query.decode("latin-1"), max_num_fields=MAX_QUERY_PAIRS)
        except ValueError as exc:
            raise InvalidRequest(f"The query string: {exc}") from exc
        names += [value for name, value in pairs if name == KEY]
    return _one(names)


def is_form(headers: Mapping[bytes, bytes]) -> bool:
    return media_type(headers.get(b"content-type", b"").decode("latin-1")) in FORMS


def is_json(headers: Mapping[bytes, bytes]) -> bool:
    return headers.get(b"content-type", b"").lower().startswith(tuple(map(str.encode, _JSON)))


async def name_in_body(
    body: Buffer, headers: Mapping[bytes, bytes], keys: Sequence[str]
) -> str | None:
    """Return the model's name in a form or in JSON, None if it has none or cannot be read: whoever
    gets it says what is wrong with it.

    Args:
        keys: what JSON may call it.
    Raises:
        InvalidRequest: there are two.
    """
    content_type = headers.get(b"content-type", b"").decode("latin-1")
    work = form.work_bytes(body, content_type) if is_form(headers) else len(body)
    if work > INLINE_BYTES:
        return await asyncio.to_thread(_name_in_body, body, headers, keys)
    return _name_in_body(body, headers, keys)


def _name_in_body(body: Buffer, headers: Mapping[bytes, bytes], keys: Sequence[str]) -> str | None:
    try:
        if is_form(headers):
            fields = form.parse(body, headers[b"content-type"].decode("latin-1"))
            names = [field.text for field in fields if field.name == KEY]
        else:
            document = lenient_json.decode_object(body)
            names = [document[key] for key in keys if isinstance(document.get(key), str)][:1]
    except (DecodeError, InvalidRequest):
        return None
    return _one(names)


def _one(names: Iterable[str]) -> str | None:
    """Return the one name that is not empty, however often."""
    found = list(dict.fromkeys(name for name in names if name))
    if len(found) > 1:
        raise two_models(*found[:2])
    return found[0] if found else None


def two_models(one: str, another: str) -> InvalidRequest:
    return InvalidRequest(
        "The request names two models", got=f"{shortened(one)} and {shortened(another)}"
    )
