"""Reads images that stay encoded: for models of bytes, and of strings that hold images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from rayserve_app.codecs import base64, image, json, json_metadata
from rayserve_app.codecs.image_header import is_image, is_text
from rayserve_app.codecs.json_metadata import EncodedImage
from rayserve_app.errors import DecodeError, RequestTooLarge
from rayserve_app.media_types import JSON, OCTETS, TEXT
from rayserve_app.payloads.image_codecs import ImageCodec
from rayserve_app.payloads.items import Body, Encoded, ItemReader, Payload, payload_of
from rayserve_app.payloads.payload_limits import PayloadLimits
from rayserve_app.payloads.plain_items import text_of
from rayserve_app.types import Buffer

HEAD_BYTES: Final = 1 << 12
MIN_HEAD_BYTES: Final = 1 << 6
"""No image or packed stream of such a length is without a zero or a line end."""

LOST_BYTES: Final = "curl's -d leaves out line ends and zero bytes: send files with --data-binary."


class EncodedImages(ItemReader):
    """Reads images of one codec: their bytes, and what stands for these in JSON."""

    takes_images = True

    def __init__(
        self, kind: str, codec: ImageCodec, names: tuple[str, ...], limits: PayloadLimits
    ) -> None:
        super().__init__(names, limits)
        self._codec = codec
        self._make_item = codec.items[kind]
        self._keeps_text = kind == "string" and codec.keeps_metadata
        self._needs_size = kind != "bytes"
        octets = Body(self._read_octets, codec.octets_work)
        bodies = {
            OCTETS: octets,
            TEXT: Body(self._read_text_or_octets, codec.text_work),
            JSON: self._json,
        }
        bodies[""] = bodies[codec.without_type]
        if codec.stream is not None:
            bodies[codec.stream.MEDIA_TYPE] = octets
        self.bodies = bodies

    def read_value(self, value: Any) -> list[Encoded]:
        """Read base64, `{"b64": base64}`, or an image with metadata as an object or as JSON text;
        bytes as binary tensors carry them."""
        if isinstance(value, bytes | memoryview):
            return self._read_element(value)
        if isinstance(value, Mapping):
            if set(value) == {"b64"} and isinstance(value["b64"], str):
                return self._read_element(base64.decode(value["b64"]))
            return self._read_described(value)
        if not isinstance(value, str):
            raise DecodeError(
                "Not an image in JSON",
                expected="a base64 string or an object with `data`",
                got=type(value).__name__,
            )
        if value.lstrip()[:1] == "{":
            return self._read_described(value)
        return self._read(base64.decode(value))

    def read_column(self, value: Any, path: str) -> Payload:
        """Read a list of images; one encoded image may come as one row of uint8."""
        if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 1:
            return payload_of(self.read_at(value.tobytes(), path))
        return super().read_column(value, path)

    def read_object(self, value: Any) -> Encoded:
        if isinstance(value, bytes | bytearray | memoryview):
            return self._item(EncodedImage(bytes(value), {}))
        return super().read_object(value)

    def _read(self, data: Buffer) -> list[Encoded]:
        """Return the items of encoded bytes: one image, or the many of a stream.

        Raises:
            DecodeError: not a stream, or an image of which nobody can tell the size.
            RequestTooLarge: too many items or pixels; the path says which item.
        """
        stream = self._codec.stream
        if stream is None or not stream.is_stream(data):
            return [self._item(EncodedImage(data, {}))]
        try:
            images = stream.decode(data, max_items=self._limits.max_items)
        except DecodeError as exc:
            if exc.remedy is None and _is_stripped(data):
                exc.remedy = LOST_BYTES
            raise exc.at("images") from exc.__cause__
        items = []
        for index, each in enumerate(images):
            try:
                items.append(self._item(EncodedImage(each, {})))
            except RequestTooLarge as exc:
                raise exc.at(f"images[{index}]") from exc.__cause__
        return items

    def _read_element(self, data: Buffer) -> list[Encoded]:
        """Return the items of an element of type bytes, as binary tensors and `{"b64"}` carry
        them: the encoded bytes themselves, or the codec's own form of them as text."""
        mark = self._codec.text_mark
        if mark is None or is_image(data):
            return self._read(data)
        try:
            text = bytes(data).decode("ascii")
            return self.read_value(text) if text.lstrip().startswith(mark) else self._read(data)
        except (UnicodeDecodeError, DecodeError):
            return self._read(data)

    def _read_described(self, value: str | Mapping[str, Any]) -> list[Encoded]:
        encoded = json_metadata.decode(value)
        # Nobody else knows what to make of a `data:` URL.
        if self._keeps_text and isinstance(value, str) and ";base64," not in value:
            self._check_image(encoded.data)
            return [value]
        return self._items_of(encoded)

    def _items_of(self, encoded: EncodedImage) -> list[Encoded]:
        """Return the items of an image with metadata, which only some codecs keep."""
        keeps = self._codec.keeps_metadata
        return [self._item(encoded)] if keeps else self._read(encoded.data)

    def _item(self, encoded: EncodedImage) -> Encoded:
        self._check_image(encoded.data)
        return self._make_item(encoded)

    def _check_image(self, data: Buffer) -> None:
        size = image.check_size(data, max_pixels=self._limits.max_pixels)
        if _is_stripped(data) and is_image(data):
            raise DecodeError("The image has lost bytes", remedy=LOST_BYTES)
        if size is None and self._needs_size and is_image(data):
            # A decoder might read what we cannot, at any size.
            raise DecodeError("The image's header cannot be read")

    def _read_octets(self, body: Buffer) -> Payload:
        stream = self._codec.stream
        return Payload(self._read(body), stream is not None and stream.is_stream(body))

    def _read_text_or_octets(self, body: Buffer) -> Payload:
        """Read a body of which nobody says whether it is base64 or what that stands for."""
        if is_text(body):
            return payload_of(self.read_value(text_of(body)))
        return self._read_octets(body)

    def _read_json(self, body: Buffer) -> Payload:
        raw = bytes(body)
        items = self._read_large(raw)
        return super()._read_json(raw) if items is None else payload_of(items)

    def _read_large(self, document: bytes) -> list[Encoded] | None:
        """Return the items of a JSON document that is nearly all base64, in the forms of
        `read_value` but text in text; None for other documents, and for most that are wrong."""
        try:
            found = json.decode_around(document)
        except DecodeError:
            return None
        if found is None or (data := base64.decode_plain(found[1])) is None:
            return None
        value = found[0]
        if value == json.STAND_IN:
            return self._read(data)
        if value == {"b64": json.STAND_IN}:
            return self._read_element(data)
        if isinstance(value, dict) and value.pop("data", None) == json.STAND_IN:
            return self._items_of(EncodedImage(data, value))
        return None


def _is_stripped(data: Buffer) -> bool:
    """Return whether `curl -d @file` has sent the bytes, which leaves some out."""
    if 0 in bytes(data[:MIN_HEAD_BYTES]):
        return False
    head = bytes(data[:HEAD_BYTES])
    return len(head) >= MIN_HEAD_BYTES and not (0 in head or 10 in head or 13 in head)
