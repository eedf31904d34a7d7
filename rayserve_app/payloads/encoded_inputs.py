"""Encoded bytes on their way to a model: images, packed streams, base64 and JSON with metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from rayserve_app.codecs import (
    base64,
    image,
    json,
    json_metadata,
    packed_jpeg,
)
from rayserve_app.codecs.image_header import is_image
from rayserve_app.codecs.json_metadata import EncodedImage
from rayserve_app.errors import DecodeError, RequestTooLarge
from rayserve_app.settings.model import InputSettings, LimitSettings
from rayserve_app.types import Buffer, Item

Encoded: TypeAlias = Item | EncodedImage
"""An item before `Inputs.decode`: an image is still encoded."""

HEAD_BYTES: Final = 1 << 12
MIN_HEAD_BYTES: Final = 1 << 6
"""No image or packed stream of such a length is without a zero or a line end."""

LOST_BYTES: Final = "curl's -d leaves out line ends and zero bytes: send files with --data-binary."


class EncodedInputs:
    """Reads encoded bytes, and what stands for them in JSON, for one model."""

    def __init__(self, settings: InputSettings, limits: LimitSettings) -> None:
        self._settings = settings
        self._limits = limits

    def read(self, data: Buffer) -> list[Encoded]:
        """Return the items of encoded bytes: one image, or the many of a packed stream.

        Raises:
            DecodeError: not a packed stream, or an image of which nobody can tell the size.
            RequestTooLarge: too many items or pixels; the path says which item.
        """
        if not self.is_stream(data):
            return [self.item(EncodedImage(data, {}))]
        try:
            images = packed_jpeg.decode(data, max_items=self._limits.max_items)
        except DecodeError as exc:
            if exc.remedy is None and _is_stripped(data):
                exc.remedy = LOST_BYTES
            raise exc.at("images") from exc.__cause__
        items = []
        for index, jpeg in enumerate(images):
            try:
                items.append(self.item(EncodedImage(jpeg, {})))
            except RequestTooLarge as exc:
                raise exc.at(f"images[{index}]") from exc.__cause__
        return items

    def read_json(self, value: Any) -> list[Encoded]:
        """Return the items of a JSON value: base64, `{"b64": base64}`, or an image with metadata
        as an object or as JSON text."""
        if isinstance(value, Mapping):
            if set(value) == {"b64"} and isinstance(value["b64"], str):
                return self.read_bytes(base64.decode(value["b64"]))
            return self._with_metadata(value)
        if not isinstance(value, str):
            raise DecodeError(
                "Not an image in JSON",
                expected="a base64 string or an object with `data`",
                got=type(value).__name__,
            )
        if value.lstrip()[:1] == "{":
            return self._with_metadata(value)
        return self.read(base64.decode(value))

    def read_large(self, document: bytes) -> list[Encoded] | None:
        """Return the items of a JSON document that is nearly all base64, in the forms of
        `read_json` but text in text; None for other documents, and for most that are wrong."""
        try:
            found = json.decode_around(document)
        except DecodeError:
            return None
        if found is None or (data := base64.decode_plain(found[1])) is None:
            return None
        value = found[0]
        if value == json.STAND_IN:
            return self.read(data)
        if value == {"b64": json.STAND_IN}:
            return self.read_bytes(data)
        if isinstance(value, dict) and value.pop("data", None) == json.STAND_IN:
            return self._described(EncodedImage(data, value))
        return None

    def read_bytes(self, data: Buffer) -> list[Encoded]:
        """Return the items of an element of type bytes, as binary tensors and `{"b64"}` carry
        them: the encoded bytes themselves, or the model's own form of them as text."""
        if self._settings.codec == "raw" or is_image(data) or self.is_stream(data):
            return self.read(data)
        try:
            text = bytes(data).decode("ascii")
            is_form = self._settings.codec != "json_metadata" or text.lstrip()[:1] == "{"
            return self.read_json(text) if is_form else self.read(data)
        except (UnicodeDecodeError, DecodeError):
            return self.read(data)

    def item(self, encoded: EncodedImage) -> Encoded:
        """Return the item that encoded bytes become for this model's type."""
        self._check_pixels(encoded.data)
        settings = self._settings
        if settings.type == "image":
            return encoded
        if settings.type == "bytes":
            if settings.codec == "json_metadata":
                return {"data": encoded.data, **encoded.metadata}
            return encoded.data
        if settings.codec == "json_metadata":
            return json_metadata.encode(encoded)
        return base64.encode(encoded.data, urlsafe=settings.codec == "base64_urlsafe")

    def is_stream(self, data: Buffer) -> bool:
        """Return whether the bytes are a packed stream for this model, which takes single images
        too: as these begin, a stream's first length is over 1 GiB, the largest `max_body_mb`."""
        return self._settings.codec == "packed_jpeg" and not is_image(data)

    def _with_metadata(self, value: str | Mapping[str, Any]) -> list[Encoded]:
        encoded = json_metadata.decode(value)
        takes_text = self._settings.type == "string" and self._settings.codec == "json_metadata"
        # Nobody else knows what to make of a `data:` URL.
        if takes_text and isinstance(value, str) and ";base64," not in value:
            self._check_pixels(encoded.data)
            return [value]
        return self._described(encoded)

    def _described(self, encoded: EncodedImage) -> list[Encoded]:
        """Return the items of an image with metadata, of which only some models want to know."""
        if self._settings.codec == "json_metadata":
            return [self.item(encoded)]
        return self.read(encoded.data)

    def _check_pixels(self, data: Buffer) -> None:
        size = image.check_size(data, max_pixels=self._limits.max_pixels)
        if _is_stripped(data) and is_image(data):
            raise DecodeError("The image has lost bytes", remedy=LOST_BYTES)
        if size is None and self._settings.type != "bytes" and is_image(data):
            # A decoder might read what we cannot, at any size.
            raise DecodeError("The image's header cannot be read")


def _is_stripped(data: Buffer) -> bool:
    """Return whether `curl -d @file` has sent the bytes, which leaves some out."""
    if 0 in bytes(data[:MIN_HEAD_BYTES]):
        return False
    head = bytes(data[:HEAD_BYTES])
    return len(head) >= MIN_HEAD_BYTES and not (0 in head or 10 in head or 13 in head)
