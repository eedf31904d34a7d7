"""What one request may ask of a model: items, and pixels of its images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rayserve_app.codecs import image
from rayserve_app.codecs.json_metadata import EncodedImage
from rayserve_app.errors import RequestTooLarge
from rayserve_app.settings.model import LimitSettings
from rayserve_app.types import Item


class PayloadLimits:
    """Checks the payloads of one model against its limits."""

    def __init__(self, settings: LimitSettings, image_size: tuple[int, int] | None) -> None:
        """
        Args:
            image_size: height and width that the model brings its images to.
        """
        self.max_items = settings.max_items
        self.max_pixels = settings.max_pixels
        self._max_request_pixels = settings.max_request_pixels
        self._image_size = image_size

    def check_count(self, count: int) -> None:
        """Raise RequestTooLarge for more items than one request may carry."""
        if count > self.max_items:
            raise RequestTooLarge(
                "Too many items", expected=f"at most {self.max_items}", got=str(count)
            )

    def check_pixels(self, items: Sequence[Item | EncodedImage]) -> None:
        """Raise RequestTooLarge if the images of one request are too large together."""
        own_size = self._image_size
        total = 0
        for item in items:
            if isinstance(item, EncodedImage):
                size = own_size or image.read_size(item.data) or (0, 0)
                total += size[0] * size[1]
            elif isinstance(item, np.ndarray):
                total += own_size[0] * own_size[1] if own_size else item.size // 3
        if total > self._max_request_pixels:
            raise RequestTooLarge(
                "The images are too large together",
                expected=f"at most {self._max_request_pixels} pixels",
                got=f"{total} in {len(items)} images",
            )
