"""From payloads to items: what a body or a JSON value becomes for a model's declared input.

Protocols find the payload in their envelope and hand it over; which codec reads it depends on the
model's input alone, so the same image arrives as the same item whatever protocol carried it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from rayserve_app.codecs import base64, csv, image, json, json_metadata, npy, packed_jpeg
from rayserve_app.codecs.json_metadata import EncodedImage
from rayserve_app.errors import (
    DecodeError,
    RequestTooLarge,
    ShapeMismatch,
    UnsupportedContentType,
)
from rayserve_app.image_arrays import ImageArrays, is_array
from rayserve_app.preprocessing import Preprocessing
from rayserve_app.settings import InputSettings, LimitSettings
from rayserve_app.tensors import as_array, fit, shape_text, whole
from rayserve_app.types import Array, Buffer, Invocation, Item, TensorSpec, describe

Encoded: TypeAlias = Item | EncodedImage
"""An item before `Inputs.decode`: an image is still encoded."""

VECTOR_DTYPES: Final = {"integers": np.int32, "floats": np.float32, "doubles": np.float64}

JSON: Final = "application/json"
CSV: Final = "text/csv"
NPY: Final = "application/x-npy"
TEXT: Final = "text/plain"
OCTETS: Final = "application/octet-stream"
PACKED: Final = "application/x-packed-jpeg"

IMAGE_SIGNATURES: Final = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
"""A packed stream cannot begin with these: read as a length each is over 1 GiB, the largest
`max_body_mb`. So a model of packed streams takes single images too."""


class Payload(NamedTuple):
    """The items of one request; `is_batch` says whether a list was sent, if only of one."""

    items: list[Encoded]
    is_batch: bool


BodyReader: TypeAlias = Callable[[Buffer], Payload]


def media_type(content_type: str | None) -> str:
    """Return the media type alone, in lower case; empty if the header is absent."""
    return (content_type or "").partition(";")[0].strip().lower()


class Inputs:
    """Reads payloads for one model."""

    def __init__(
        self,
        settings: InputSettings,
        limits: LimitSettings,
        specs: Sequence[TensorSpec] = (),
    ) -> None:
        self.settings = settings
        self._limits = limits
        self._specs = {spec.name: spec for spec in specs}
        self.preprocess = Preprocessing(settings)
        self._image_arrays = ImageArrays(settings, self.preprocess)
        self._takes_image_arrays = settings.type == "image" and settings.codec == "raw"
        self._carries_bytes = settings.type in ("bytes", "image") or settings.codec != "raw"
        self.needs_decoding = settings.type == "image"
        """Whether `decode` takes long enough to be worth a thread."""
        self._readers = self._body_readers()

    def from_body(self, body: Buffer, content_type: str | None) -> Payload:
        """Read a whole body by its media type; without one, it is what the model declares.

        Raises:
            UnsupportedContentType: the model takes no such body; the sentence lists the known.
            DecodeError, ShapeMismatch, RequestTooLarge: the body does not fit.
        """
        if self.settings.type == "request":
            return Payload([Invocation(body, content_type)], False)
        kind = media_type(content_type)
        reader = self._readers.get(kind)
        if reader is None and kind.startswith("image/") and self._carries_bytes:
            reader = self._from_octets
        if reader is None:
            known = sorted(filter(None, self._readers))
            if self._carries_bytes:
                known.append("image/*")
            raise UnsupportedContentType(
                "Unsupported Content-Type", expected=" or ".join(known), got=repr(content_type)
            )
        payload = reader(body)
        self.check_count(len(payload.items))
        return payload

    def from_json(self, value: Any, *, path: str = "") -> Payload:
        """Read a parsed JSON value: one item, or a list of items."""
        if self.settings.type == "request":
            return Payload(self.from_json_item(value, path=path), False)
        if self._takes_image_arrays and is_array(value):
            return self._from_image_arrays(value, path)
        if self._carries_bytes or self.settings.type == "string" or self.settings.type == "tensors":
            is_batch = isinstance(value, list)
        else:
            return self._from_nested(value, path)
        if not is_batch:
            return Payload(self.from_json_item(value, path=path), False)
        self.check_count(len(value))
        items: list[Encoded] = []
        for index, element in enumerate(value):
            items += self.from_json_item(element, path=f"{path}[{index}]")
        return Payload(items, True)

    def from_json_item(self, value: Any, *, path: str) -> list[Encoded]:
        """Read one JSON value as one item, or as the many of a packed stream."""
        try:
            if self.settings.type == "request":
                return [_invocation(value)]
            if self._takes_image_arrays and is_array(value):
                return self._from_image_arrays(value, "").items
            if self._carries_bytes:
                return self._from_json_bytes(value)
            if self.settings.type == "string":
                return [self._string(value)]
            if self.settings.type == "tensors":
                return [self._tensors(value)]
            return [self._array(value, self._only_spec())]
        except (DecodeError, ShapeMismatch, RequestTooLarge) as exc:
            raise exc.at(path) if path else exc from exc.__cause__

    def from_object(self, value: Any, *, path: str) -> Encoded:
        """Read one item that a Python caller hands over: encoded bytes, an array (for an image as
        `ImageArrays` says), a string, a mapping, or an Invocation."""
        if self.settings.type == "request":
            return self.from_json_item(value, path=path)[0]
        try:
            if isinstance(value, np.ndarray) and self.settings.type == "image":
                return self._image_arrays.read(value)
            if isinstance(value, np.ndarray) and not self._carries_bytes:
                return self._array(value, self._only_spec())
            if isinstance(value, bytes | bytearray | memoryview) and self._carries_bytes:
                return self._encoded_item(EncodedImage(bytes(value), {}))
        except (DecodeError, ShapeMismatch, RequestTooLarge) as exc:
            raise exc.at(path) from exc.__cause__
        items = self.from_json_item(value, path=path)
        if len(items) != 1:
            raise DecodeError("Not one item", expected="one image", got=str(len(items)), path=path)
        return items[0]

    def from_encoded(self, data: Buffer) -> list[Encoded]:
        """Read encoded bytes: one image, or the many of a packed stream."""
        if self.settings.codec != "packed_jpeg" or bytes(data[:4]).startswith(IMAGE_SIGNATURES):
            return [self._encoded_item(EncodedImage(data, {}))]
        try:
            images = packed_jpeg.decode(data, max_items=self._limits.max_items)
        except DecodeError as exc:
            raise exc.at("images") from exc.__cause__
        items = []
        for index, jpeg in enumerate(images):
            try:
                items.append(self._encoded_item(EncodedImage(jpeg, {})))
            except RequestTooLarge as exc:
                raise exc.at(f"images[{index}]") from exc.__cause__
        return items

    def decode(self, encoded: Encoded, out: Array | None = None) -> Item:
        """Decode an image to the model's array, into `out` if there is one; everything else is an
        item already.

        Raises:
            DecodeError: not an image, or a truncated one.
        """
        if not isinstance(encoded, EncodedImage):
            return encoded
        pixels = image.decode(encoded.data, max_pixels=self._limits.max_pixels)
        array = self.preprocess(pixels, out)
        if self.settings.codec == "json_metadata":
            return {**encoded.metadata, "data": array}
        return array

    def check_count(self, count: int) -> None:
        """Raise RequestTooLarge for more items than one request may carry."""
        if count > self._limits.max_items:
            raise RequestTooLarge(
                "Too many items", expected=f"at most {self._limits.max_items}", got=str(count)
            )

    def check_pixels(self, items: Sequence[Encoded]) -> None:
        """Raise RequestTooLarge if the images of one request are too large together."""
        most = self._limits.max_request_pixels
        own_size = self.settings.size
        total = 0
        for item in items:
            if isinstance(item, EncodedImage):
                size = own_size or image.read_size(item.data) or (0, 0)
                total += size[0] * size[1]
            elif isinstance(item, np.ndarray):
                total += own_size[0] * own_size[1] if own_size else item.size // 3
        if total > most:
            raise RequestTooLarge(
                "The images are too large together",
                expected=f"at most {most} pixels",
                got=f"{total} in {len(items)} images",
            )

    def parse_bytes(self, body: Buffer, content_type: str | None) -> int:
        """Return how many bytes `from_body` has to work through; encoded images pass as they are,
        but for their headers."""
        is_raw = self.settings.type in ("bytes", "image") and self.settings.codec != "base64"
        kind = media_type(content_type)
        if is_raw and (kind in ("", OCTETS, PACKED) or kind.startswith("image/")):
            return 0
        return len(body)

    def _body_readers(self) -> dict[str, BodyReader]:
        def from_json(body: Buffer) -> Payload:
            return self.from_json(json.decode(body))

        if self._carries_bytes:
            readers: dict[str, BodyReader] = {OCTETS: self._from_octets, JSON: from_json}
            declared = {
                "base64": self._from_text,
                "base64_urlsafe": self._from_text,
                "json_metadata": from_json,
            }
            readers[""] = declared.get(self.settings.codec, self._from_octets)
            if self.settings.codec == "packed_jpeg":
                readers[PACKED] = self._from_octets
            if self.settings.type == "string" or self.settings.codec == "base64":
                readers[TEXT] = self._from_text
            if self._takes_image_arrays:
                readers[NPY] = lambda body: self._from_image_arrays(npy.decode(body), "")
            return readers
        if self.settings.type == "string":
            return {
                "": self._from_text,
                OCTETS: self._from_text,
                TEXT: self._from_text,
                JSON: from_json,
            }
        readers = {"": from_json, JSON: from_json}
        if self.settings.type != "tensors":
            readers |= {CSV: self._from_csv, NPY: self._from_npy}
        return readers

    def _from_octets(self, body: Buffer) -> Payload:
        items = self.from_encoded(body)
        is_stream = self.settings.codec == "packed_jpeg"
        return Payload(items, is_stream and not bytes(body[:4]).startswith(IMAGE_SIGNATURES))

    def _from_text(self, body: Buffer) -> Payload:
        try:
            text = bytes(body).decode()
        except UnicodeDecodeError as exc:
            raise DecodeError("Not text", expected="UTF-8", got=f"byte {exc.start}") from exc
        return Payload(self.from_json_item(text, path=""), False)

    def _from_csv(self, body: Buffer) -> Payload:
        rows = csv.decode(body)
        spec = self._only_spec()
        items: list[Encoded] = []
        for index, row in enumerate(rows):
            try:
                items.append(fit(whole(as_array(row, spec), spec), spec))
            except (DecodeError, ShapeMismatch) as exc:
                raise exc.at(f"rows[{index}]") from exc.__cause__
        return Payload(items, True)

    def _from_npy(self, body: Buffer) -> Payload:
        return self._split(npy.decode(body), self._only_spec(), "")

    def _from_image_arrays(self, value: Any, path: str) -> Payload:
        arrays, is_batch = self._image_arrays.split(value)
        self.check_count(len(arrays))
        self.check_pixels(arrays)
        items: list[Encoded] = []
        for index, array in enumerate(arrays):
            try:
                items.append(self._image_arrays.read(array))
            except ShapeMismatch as exc:
                place = f"{path}[{index}]" if is_batch else path
                raise exc.at(place) if place else exc from exc.__cause__
        return Payload(items, is_batch)

    def _from_json_bytes(self, value: Any) -> list[Encoded]:
        """Read what stands for encoded bytes in JSON: base64, `{"b64": base64}`, or an image with
        metadata as an object or as JSON text."""
        if isinstance(value, Mapping):
            if set(value) == {"b64"} and isinstance(value["b64"], str):
                return self.from_encoded(base64.decode(value["b64"]))
            return self._with_metadata(value)
        if not isinstance(value, str):
            raise DecodeError(
                "Not an image in JSON",
                expected="a base64 string or an object with `data`",
                got=type(value).__name__,
            )
        if value.lstrip()[:1] == "{":
            return self._with_metadata(value)
        return self.from_encoded(base64.decode(value))

    def _with_metadata(self, value: str | Mapping[str, Any]) -> list[Encoded]:
        encoded = json_metadata.decode(value)
        if self.settings.codec != "json_metadata":
            return self.from_encoded(encoded.data)
        if self.settings.type == "string" and isinstance(value, str):
            self._check_pixels(encoded.data)
            return [value]
        return [self._encoded_item(encoded)]

    def _encoded_item(self, encoded: EncodedImage) -> Encoded:
        """Return the item that encoded bytes become for this model's type."""
        self._check_pixels(encoded.data)
        settings = self.settings
        if settings.type == "image":
            return encoded
        if settings.type == "bytes":
            if settings.codec == "json_metadata":
                return {"data": encoded.data, **encoded.metadata}
            return encoded.data
        if settings.codec == "json_metadata":
            return json_metadata.encode(encoded)
        return base64.encode(encoded.data, urlsafe=settings.codec == "base64_urlsafe")

    def _check_pixels(self, data: Buffer) -> None:
        size = image.check_size(data, max_pixels=self._limits.max_pixels)
        is_decoded = self.settings.type != "bytes"
        if size is None and is_decoded and bytes(data[:4]).startswith(IMAGE_SIGNATURES):
            # A decoder might read what we cannot, at any size.
            raise DecodeError("The image's header cannot be read")

    def _string(self, value: Any) -> str:
        if not isinstance(value, str):
            raise DecodeError("Not a string", expected="a string", got=type(value).__name__)
        return value

    def _from_nested(self, value: Any, path: str) -> Payload:
        """Read a nested list as one array, or as a batch if it has one axis more."""
        spec = self._only_spec()
        try:
            return self._split(as_array(value, spec), spec, path)
        except (DecodeError, ShapeMismatch):
            if not isinstance(value, list) or not value or not isinstance(value[0], list):
                raise
        # Rows of unlike length are a batch of vectors.
        items = [
            item
            for index, element in enumerate(value)
            for item in self.from_json_item(element, path=f"{path}[{index}]")
        ]
        self.check_count(len(items))
        return Payload(items, True)

    def _split(self, array: Array, spec: TensorSpec, path: str) -> Payload:
        rank = len(spec.shape) - 1
        if not spec.shape or array.ndim == rank:
            return Payload([fit(array, spec)], False)
        if array.ndim != rank + 1:
            raise ShapeMismatch(
                "Wrong rank",
                expected=shape_text(spec),
                got=describe(array),
                path=path or spec.name,
            )
        self.check_count(len(array))
        return Payload([fit(row, spec) for row in array], True)

    def _tensors(self, value: Any) -> Item:
        if not isinstance(value, Mapping):
            raise DecodeError(
                "Not a mapping of input names", expected="an object", got=type(value).__name__
            )
        if self._specs and set(value) != set(self._specs):
            raise ShapeMismatch(
                "Wrong input names", expected=str(sorted(self._specs)), got=str(sorted(value))
            )
        return {
            name: self._array(element, self._specs.get(name, TensorSpec(name, "", ())))
            for name, element in value.items()
        }

    def _array(self, value: Any, spec: TensorSpec) -> Array:
        return fit(as_array(value, spec), spec)

    def _only_spec(self) -> TensorSpec:
        """Return what one array of this model is: Clipper's vectors, else what the YAML says, else
        what the model says of its one input."""
        settings = self.settings
        if settings.type in VECTOR_DTYPES:
            return TensorSpec("input", np.dtype(VECTOR_DTYPES[settings.type]).name, (-1, -1))
        declared = next(iter(self._specs.values()), TensorSpec("input", "", ()))
        shape = declared.shape if settings.shape is None else (-1, *settings.shape)
        return TensorSpec(declared.name, settings.dtype or declared.dtype, shape)


def _invocation(value: Any) -> Invocation:
    """Return the request that a value stands for: bytes are a body, a string is one in base64, like
    `{"b64": base64}`, and anything else is a JSON document."""
    if isinstance(value, Invocation):
        return value
    if isinstance(value, Mapping) and set(value) == {"b64"}:
        value = value["b64"]
    if isinstance(value, str):
        value = base64.decode(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return Invocation(value, OCTETS)
    return Invocation(json.encode(value), JSON)
