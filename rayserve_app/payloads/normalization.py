"""What `scale`, `mean` and `std` do to pixels, as one factor and one offset per channel."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rayserve_app.settings.model import InputSettings
from rayserve_app.types import Array


class Normalization(NamedTuple):
    """A pixel becomes pixel * factor + offset; both are (C,) float32, in the order of the model's
    channels."""

    factor: Array
    offset: Array


def declared_normalization(settings: InputSettings) -> Normalization | None:
    """Return what makes (x * scale - mean) / std; None if pixels stay what they are."""
    if (settings.scale, settings.mean, settings.std) == (None, None, None):
        return None
    scale = 1.0 if settings.scale is None else settings.scale
    mean = np.array(settings.mean or (0.0, 0.0, 0.0))
    std = np.array(settings.std or (1.0, 1.0, 1.0))
    if settings.color == "gray":
        mean, std = mean[:1], std[:1]
    return Normalization((scale / std).astype(np.float32), (-mean / std).astype(np.float32))
