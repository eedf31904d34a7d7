"""How encoded images stand in payloads: a row for each codec, and for each type of item what the
bytes of an image become."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, cast

from rayserve_app.codecs import base64, json_metadata
from rayserve_app.codecs.json_metadata import EncodedImage
from rayserve_app.media_types import JSON, OCTETS, TEXT
from rayserve_app.payloads.items import Encoded, no_work, text_work
from rayserve_app.settings.codecs import CODECS
from rayserve_app.types import Array, Buffer, Item

MakeItem: TypeAlias = Callable[[EncodedImage], Encoded]


class StreamCodec(Protocol):
    """What a module has that reads streams of many images."""

    MEDIA_TYPE: str

    def is_stream(self, data: Buffer) -> bool:
        """Return whether the bytes are a stream, damaged or not, rather than a bare image."""

    def decode(self, data: Buffer, *, max_items: int) -> Sequence[Buffer]:
        """Return the images of a stream, views of it where they can be.

        Raises:
            DecodeError: not a stream, or none of one image; the path is that of an item.
            RequestTooLarge: more than `max_items`.
        """


class ImageCodec(NamedTuple):
    """One codec. Whatever it is, an image may also come bare, in base64 and with metadata."""

    items: Mapping[str, MakeItem]
    """What an image becomes, by the model's type."""
    without_type: str = OCTETS
    """What a body without a media type is read as."""
    octets_work: Callable[[Buffer], int] = no_work
    text_work: Callable[[Buffer], int] = text_work
    text_mark: str | None = None
    """What text begins with that is this codec's own form of an image; None if it has none."""
    keeps_metadata: bool = False
    stream: StreamCodec | None = None

    def decoded(self, array: Array, metadata: Mapping[str, Any]) -> Item:
        """Return the item that an image is once it is decoded to (H, W, C)."""
        return {**metadata, "data": array} if self.keeps_metadata else array


def _bare(image: EncodedImage) -> Encoded:
    return image.data


def _in_base64(image: EncodedImage, *, urlsafe: bool = False) -> Encoded:
    return base64.encode(image.data, urlsafe=urlsafe)


def _with_metadata(image: EncodedImage) -> Encoded:
    return {"data": image.data, **image.metadata}


def _undecoded(image: EncodedImage) -> Encoded:
    return image


_BYTES: Final[Mapping[str, MakeItem]] = {"bytes": _bare, "image": _undecoded}

_CODECS: Final = {
    "raw": ImageCodec(_BYTES),
    "base64": ImageCodec(
        {**_BYTES, "string": _in_base64}, TEXT, octets_work=text_work, text_mark=""
    ),
    "base64_urlsafe": ImageCodec(
        {"string": partial(_in_base64, urlsafe=True)}, TEXT, octets_work=text_work, text_mark=""
    ),
    "json_metadata": ImageCodec(
        {"bytes": _with_metadata, "image": _undecoded, "string": json_metadata.encode},
        JSON,
        octets_work=len,
        text_work=len,
        text_mark="{",
        keeps_metadata=True,
    ),
}


def image_codec(name: str) -> ImageCodec:
    """Return the codec of a name in settings/codecs.py."""
    module = CODECS[name].stream
    return _CODECS[name] if module is None else _stream_codec(module)


def _stream_codec(module: str) -> ImageCodec:
    stream = cast(StreamCodec, importlib.import_module(module))

    def work(body: Buffer) -> int:
        return len(body) if stream.is_stream(body) else 0

    return ImageCodec(_BYTES, octets_work=work, stream=stream)
