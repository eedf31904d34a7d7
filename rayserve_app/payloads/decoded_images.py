"""Reads images for models of pixels, and decodes them: encoded ones, and those that are arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from rayserve_app.codecs import image, npy
from rayserve_app.codecs.json_metadata import EncodedImage
from rayserve_app.errors import ShapeMismatch
from rayserve_app.media_types import NPY
from rayserve_app.payloads.encoded_images import EncodedImages
from rayserve_app.payloads.image_arrays import ImageArrays, is_array
from rayserve_app.payloads.image_codecs import ImageCodec
from rayserve_app.payloads.items import Body, Encoded, Payload, npy_work
from rayserve_app.payloads.payload_limits import PayloadLimits
from rayserve_app.payloads.preprocessing import Preprocessing
from rayserve_app.types import Array, Item


class DecodedImages(EncodedImages):
    """Reads images of one codec, which wait for `decode` unless they come as arrays."""

    def __init__(
        self,
        codec: ImageCodec,
        names: tuple[str, ...],
        limits: PayloadLimits,
        arrays: ImageArrays,
        preprocess: Preprocessing,
    ) -> None:
        super().__init__("image", codec, names, limits)
        self._arrays = arrays
        self._preprocess = preprocess
        self.bodies = {
            **self.bodies,
            NPY: Body(lambda body: self._read_arrays(npy.decode(body), ""), npy_work),
        }

    def read_value(self, value: Any) -> list[Encoded]:
        if is_array(value):
            return [*self._read_arrays(value, "").items]
        return super().read_value(value)

    def read_values(self, value: Any, path: str) -> Payload:
        if is_array(value):
            return self._read_arrays(value, path)
        return super().read_values(value, path)

    def read_column(self, value: Any, path: str) -> Payload:
        if isinstance(value, np.ndarray) and value.ndim > 1:
            return self._read_arrays(value, path)
        return super().read_column(value, path)

    def read_object(self, value: Any) -> Encoded:
        if isinstance(value, np.ndarray):
            return self._codec.decoded(self._arrays.read(value), {})
        return super().read_object(value)

    def decode(self, encoded: Encoded, out: Array | None) -> Item:
        if not isinstance(encoded, EncodedImage):
            return encoded
        picture = image.decode_reduced(
            encoded.data,
            max_pixels=self._limits.max_pixels,
            least_size=self._preprocess.least_size,
            out=out,
        )
        array = self._preprocess(picture.pixels, out, picture.extent)
        return self._codec.decoded(array, encoded.metadata)

    def _read_arrays(self, value: Any, path: str) -> Payload:
        arrays, is_batch = self._arrays.split(value)
        self._limits.check_count(len(arrays))
        self._limits.check_pixels(arrays)
        items: list[Encoded] = []
        for index, array in enumerate(arrays):
            try:
                items.append(self._codec.decoded(self._arrays.read(array), {}))
            except ShapeMismatch as exc:
                place = f"{path}[{index}]" if is_batch else path
                raise exc.at(place) if place else exc from exc.__cause__
        return Payload(items, is_batch)
