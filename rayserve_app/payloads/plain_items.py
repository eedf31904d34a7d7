"""Items that are what they are sent as: strings, and whole requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayserve_app.codecs import base64, json
from rayserve_app.errors import DecodeError
from rayserve_app.media_types import JSON, OCTETS, TEXT
from rayserve_app.payloads.items import Body, Encoded, ItemReader, Payload, text_work
from rayserve_app.payloads.payload_limits import PayloadLimits
from rayserve_app.types import Buffer, Invocation


def text_of(data: Buffer) -> str:
    """Return what the bytes of a text say.

    Raises:
        DecodeError: they are not UTF-8.
    """
    try:
        return bytes(data).decode()
    except UnicodeDecodeError as exc:
        raise DecodeError("Not text", expected="UTF-8", got=f"byte {exc.start}") from exc


class Strings(ItemReader):
    """Reads strings as they are."""

    def __init__(self, names: tuple[str, ...], limits: PayloadLimits) -> None:
        super().__init__(names, limits)
        text = Body(lambda body: Payload([text_of(body)], False), text_work)
        self.bodies = {"": text, OCTETS: text, TEXT: text, JSON: self._json}

    def read_value(self, value: Any) -> list[Encoded]:
        if isinstance(value, bytes | memoryview):
            return [text_of(value)]
        if not isinstance(value, str):
            raise DecodeError("Not a string", expected="a string", got=type(value).__name__)
        return [value]


class Requests(ItemReader):
    """Reads values as requests: bytes are a body, a string is one in base64, like
    `{"b64": base64}`, and anything else is a JSON document. A body is a request as it is."""

    bodies: Mapping[str, Body] = {}  # one of any type is read as it is

    def read_value(self, value: Any) -> list[Encoded]:
        if isinstance(value, Invocation):
            return [value]
        if isinstance(value, Mapping) and set(value) == {"b64"}:
            value = value["b64"]
        if isinstance(value, str):
            value = base64.decode(value)
        if isinstance(value, bytes | bytearray | memoryview):
            return [Invocation(value, OCTETS)]
        return [Invocation(json.encode(value), JSON)]

    def read_values(self, value: Any, path: str) -> Payload:
        return Payload(self.read_at(value, path), False)
