"""Blank items: what a model is warmed up with, where its inputs say enough to make one."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Sequence
from typing import Final

import numpy as np

from rayserve_app.payloads.inputs import Inputs
from rayserve_app.types import Array, Item, Metadata, TensorSpec

BLACK_PNG: Final = b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAADElEQVR42mNgGB4AAADIAAGTvaWOAAAAAElFTkSuQmCC"
)
"""8x8 pixels, RGB."""


def blank_item(inputs: Inputs, metadata: Metadata) -> Item | None:
    """Return an item of zeros, for a model that takes encoded images a black one; None where the
    input's shape, or what its strings hold, is not known."""
    settings = inputs.settings
    specs = metadata.inputs
    if settings.type == "image" and settings.size is not None:
        height, width = settings.size
        pixels = inputs.preprocess(np.zeros((height, width, 3), np.uint8))
        return pixels if len(specs) < 2 else _blank_metadata(pixels, specs)
    if settings.type in ("tensor", "tensors") and specs:
        blanks = {spec.name: _blank_tensor(spec) for spec in specs}
        known = {name: blank for name, blank in blanks.items() if blank is not None}
        if len(known) < len(blanks):
            return None
        return known if settings.type == "tensors" else next(iter(known.values()))
    is_encoded = settings.type == "string" and settings.codec != "raw"
    if (is_encoded or settings.type == "bytes") and [spec.dtype for spec in specs] == ["string"]:
        return inputs.decode(inputs.from_json_item(BLACK_PNG)[0])
    return None


def _blank_metadata(pixels: Array, specs: Sequence[TensorSpec]) -> Item | None:
    """Return an image with values for a model's other inputs, which come as metadata."""
    others = {
        spec.name: _blank_tensor(spec) for spec in specs if len(spec.item_shape) < pixels.ndim
    }
    known = {name: blank for name, blank in others.items() if blank is not None}
    return {"data": pixels, **known} if len(known) == len(others) == len(specs) - 1 else None


def _blank_tensor(spec: TensorSpec) -> Array | None:
    if not spec.is_known or -1 in spec.item_shape or spec.dtype in ("", "string"):
        return None
    return np.zeros(spec.item_shape, spec.dtype)
