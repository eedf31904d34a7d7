"""Bodies that hold images, and inputs that read them."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from typing import Any

import numpy as np
import skimage.data
from PIL import Image

from rayserve_app.payloads.inputs import Inputs
from rayserve_app.settings.model import InputSettings, LimitSettings
from rayserve_app.types import TensorSpec

JSON = "application/json"
PHOTO = skimage.data.astronaut()[::8, ::8]


def encoded(image_format: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PHOTO).save(file, image_format)
    return file.getvalue()


PNG, JPEG = encoded("PNG"), encoded("JPEG")


def chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


# 60,000 x 60,000 pixels by its header, and nothing behind it that could be decoded.
BOMB = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))


def packed(*images: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(image)) + image for image in images)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def create_inputs(
    type: str,
    codec: str = "raw",
    *,
    specs: tuple[TensorSpec, ...] = (),
    limits: dict[str, Any] | None = None,
    **settings: Any,
) -> Inputs:
    declared = {"type": type, "codec": codec} | settings
    return Inputs(
        InputSettings.model_validate(declared),
        LimitSettings.model_validate({"max_items": 5} | (limits or {})),
        specs,
    )


def in_json(value: Any) -> tuple[str, bytes]:
    return JSON, json.dumps(value).encode()


NAMED = (TensorSpec("a", "float32", (-1, 2)), TensorSpec("b", "int64", (-1,)))


def columns_of(declared: dict[str, Any], *specs: TensorSpec) -> Inputs:
    return Inputs(InputSettings(**declared), LimitSettings(), specs)


def decoded(data: bytes, **settings: Any) -> Any:
    inputs = create_inputs("image", **settings)
    (item,) = inputs.from_json_item(data)
    return inputs.decode(item)
