"""Images that are normalised where a PyTorch model runs: uint8, a quarter of the bytes of float32,
is what waits in the queue and goes to the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rayserve_app.payloads.normalization import Normalization, declared_normalization
from rayserve_app.settings.model import InputSettings
from rayserve_app.types import Array, TensorSpec


class DeviceNormalization:
    """Applies a `Normalization` to batches on a device, in the stream of whoever calls it."""

    def __init__(
        self, torch: Any, device: Any, constants: Normalization, *, is_planar: bool
    ) -> None:
        shape = (-1, 1, 1) if is_planar else (-1,)
        self._factor, offset = (
            torch.from_numpy(each.copy()).to(device).reshape(shape) for each in constants
        )
        self._offset = offset if constants.offset.any() else None

    def takes(self, array: Array) -> bool:
        """Return whether an image, (H, W, C) or (C, H, W), is pixels; one that came as an array of
        floats is normalised."""
        return array.dtype == np.uint8

    def __call__(self, pixels: Any) -> Any:
        """Return (N, C, H, W) or (N, H, W, C) uint8 as float32, in the same memory format."""
        scaled = pixels * self._factor
        return scaled if self._offset is None else scaled.add_(self._offset)


def choose_normalization(
    torch: Any,
    device: Any,
    settings: InputSettings,
    *,
    on_device: bool | None,
    specs: Sequence[TensorSpec],
) -> DeviceNormalization | None:
    """Return what normalises images on a device; None if they come normalised, or need not be.

    Args:
        on_device: what the settings say. If nothing, a GPU does and a CPU does not: there it takes
            as long in a batch as while images are decoded, and longer than that where the batch
            is too large for the caches.
        specs: the model's inputs, if it says them itself; one of integers takes pixels as they are.
    """
    constants = declared_normalization(settings)
    if on_device is None:
        on_device = device.type == "cuda"
    if constants is None or not on_device or any("float" not in spec.dtype for spec in specs):
        return None
    return DeviceNormalization(torch, device, constants, is_planar=settings.layout == "CHW")
