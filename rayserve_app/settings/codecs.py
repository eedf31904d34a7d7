"""The codecs in which clients send items. Another stream of images is one module and one row."""

from __future__ import annotations

from typing import Final, NamedTuple

_IMAGES: Final = ("bytes", "image")
_ARRAYS: Final = ("integers", "floats", "doubles", "tensor", "tensors")


class Codec(NamedTuple):
    """One codec: the types that it carries, and of a stream of many images the module that reads
    it (`StreamCodec` in rayserve_app/payloads/image_codecs.py says what such a module has)."""

    types: tuple[str, ...]
    stream: str | None = None


CODECS: Final = {
    "raw": Codec((*_IMAGES, *_ARRAYS, "string", "request")),
    "base64": Codec((*_IMAGES, "string")),
    "base64_urlsafe": Codec(("string",)),
    "json_metadata": Codec((*_IMAGES, "string")),
    "packed_jpeg": Codec(_IMAGES, "rayserve_app.codecs.packed_jpeg"),
    "tfrecord": Codec(_IMAGES, "rayserve_app.codecs.tfrecord"),
    "recordio": Codec(_IMAGES, "rayserve_app.codecs.recordio"),
}
