"""Two Clipper closures: how large is an image?

Each is called with a batch of inputs and returns one result for each, in order; nothing in them
knows of this project.
"""

import base64
import io
import json
from collections.abc import Iterable
from typing import Any

from PIL import Image


def size(inputs: Iterable[Any]) -> list[tuple[int, int]]:
    """Return (width, height) of encoded images, reading their headers only.

    Clipper hands over the bytes of each as an int8 array, which `BytesIO` reads as well.
    """
    return [Image.open(io.BytesIO(image)).size for image in inputs]


def size_of_json(inputs: Iterable[str | bytes]) -> list[tuple[int, int]]:
    """Return (width, height) of images that come as JSON with metadata:
    `{"data": "<base64>", "format": "png", …}`."""
    return size([base64.b64decode(json.loads(text)["data"]) for text in inputs])
