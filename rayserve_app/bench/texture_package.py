"""The code of a SageMaker package that describes an image's texture, as its author would write it;
networks.py makes the package, where this file is `code/inference.py`."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

from rayserve_app.bench.models import TEXTURE_SIDE, band_energies
from rayserve_app.types import Array


def model_fn(model_dir: str) -> str:
    return model_dir


def input_fn(body: bytearray, content_type: str) -> Array:
    image = Image.open(BytesIO(body)).convert("RGB").resize((TEXTURE_SIDE, TEXTURE_SIDE))
    return np.asarray(image, np.float32) / 255


def predict_fn(image: Array, model: str) -> list[float]:
    return band_energies(image[None])[0]
