"""From payloads to items: what a body or a JSON value becomes for a model's declared input.

Protocols find the payload in their envelope and hand it over; which codec reads it depends on the
model's input alone, so the same image arrives as the same item whatever protocol carried it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from rayserve_app.codecs import base64, csv, image, image_header, json, lenient_json, npy
from rayserve_app.codecs.form import MULTIPART, URLENCODED
from rayserve_app.codecs.json_metadata import EncodedImage
from rayserve_app.errors import (
    DecodeError,
    RequestTooLarge,
    ShapeMismatch,
    UnsupportedContentType,
)
from rayserve_app.media_types import (
    CSV,
    IMAGE_TYPES,
    JSON,
    NPY,
    OCTETS,
    PACKED,
    SAME,
    TEXT,
    media_type,
)
from rayserve_app.payloads.encoded_inputs import Encoded, EncodedInputs
from rayserve_app.payloads.image_arrays import ImageArrays, is_array
from rayserve_app.payloads.preprocessing import Preprocessing
from rayserve_app.payloads.tensor_inputs import TensorInputs
from rayserve_app.settings.model import InputSettings, LimitSettings
from rayserve_app.types import Array, Buffer, Invocation, Item, TensorSpec, describe

MISTAKEN: Final = (JSON, TEXT, URLENCODED)
"""What clients call any body if they are not told otherwise: an image is taken for one all the
same."""

REMEDIES: Final = {
    URLENCODED: "This is what curl calls any body: say what it is with -H 'Content-Type: ...'",
    MULTIPART: "Send the file alone, as curl does with --data-binary",
}

WORK_BYTES: Final = {CSV: 8, NPY: 16}
"""What a byte takes to read, in bytes of JSON: small arrays are mostly header, and maybe rows."""

TEXT_BYTES: Final = 16
"""So much text, or base64, is as quickly read as a byte of JSON."""


class Payload(NamedTuple):
    """The items of one request; `is_batch` says whether a list was sent, if only of one."""

    items: Sequence[Encoded]
    is_batch: bool


BodyReader: TypeAlias = Callable[[Buffer], Payload]


class Inputs:
    """Reads payloads for one model."""

    def __init__(
        self,
        settings: InputSettings,
        limits: LimitSettings,
        specs: Sequence[TensorSpec] = (),
        *,
        normalizes_images: bool = True,
    ) -> None:
        """
        Args:
            specs: the model's inputs, if it says them itself.
            normalizes_images: False where its `Predictor` does.
        """
        self.settings = settings
        self._limits = limits
        self._encoded = EncodedInputs(settings, limits)
        self._tensors = TensorInputs(settings, specs, self.check_count)
        self.preprocess = Preprocessing(settings, normalizes=normalizes_images)
        self._image_arrays = ImageArrays(settings, self.preprocess)
        self._takes_image_arrays = settings.type == "image"
        self._carries_bytes = settings.type in ("bytes", "image") or settings.codec != "raw"
        self._is_raw = settings.codec not in ("base64", "base64_urlsafe", "json_metadata")
        self.needs_decoding = settings.type == "image"
        """Whether `decode` takes long enough to be worth a thread."""
        self.may_be_image = settings.type in ("bytes", "image", "string")
        """Whether an item may be an image, of which one that cannot be read fails alone where the
        protocol can say so."""
        self._readers = self._body_readers()
        known = sorted(filter(None, self._readers)) + ["image/*"] * self._carries_bytes
        self._known = " or ".join(known)

    def from_body(self, body: Buffer, content_type: str | None) -> Payload:
        """Read a whole body by its media type; without one, it is what the model declares.

        Raises:
            UnsupportedContentType: the model takes no such body; the sentence lists the known.
            DecodeError, ShapeMismatch, RequestTooLarge: the body does not fit.
        """
        if self.settings.type == "request":
            return Payload([Invocation(body, content_type)], False)
        kind = media_type(content_type)
        if not len(body) and self.settings.type != "string":
            raise DecodeError("The body is empty", expected=self._known)
        reader = self._readers.get(kind)
        if self._carries_bytes and (
            kind.startswith("image/") or (kind in MISTAKEN and image_header.evident_format(body))
        ):
            reader = self._from_octets
        if reader is None:
            raise UnsupportedContentType(
                "Unsupported Content-Type",
                expected=self._known,
                got=repr(content_type),
                remedy=self._remedy(body, kind),
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
            return Payload(*self._tensors.nested(value, path))
        if not is_batch:
            return Payload(self.from_json_item(value, path=path), False)
        self.check_count(len(value))
        items: list[Encoded] = []
        for index, element in enumerate(value):
            items += self.from_json_item(element, path=f"{path}[{index}]")
        return Payload(items, True)

    def from_json_item(self, value: Any, *, path: str) -> list[Encoded]:
        """Read one JSON value as one item, or as the many of a packed stream. `bytes` may stand
        where a protocol has its own form of them."""
        try:
            if self.settings.type == "request":
                return [_invocation(value)]
            if isinstance(value, bytes | memoryview) and self._carries_bytes:
                return self._encoded.read_bytes(value)
            if self._takes_image_arrays and is_array(value):
                return [*self._from_image_arrays(value, "").items]
            if self._carries_bytes:
                return self._encoded.read_json(value)
            if self.settings.type == "string":
                return [self._string(value)]
            if self.settings.type == "tensors":
                return [self._tensors.mapping(value)]
            return [self._tensors.one(value)]
        except (DecodeError, ShapeMismatch, RequestTooLarge) as exc:
            raise exc.at(path) if path else exc from exc.__cause__

    def from_columns(self, columns: Mapping[str, Any], *, path: str = "") -> Payload:
        """Read named inputs of many items each: nested lists, lists of bytes, or arrays whose
        axis 0 counts the items.

        Raises:
            ShapeMismatch: another name than the model's, or columns of unlike length.
        """
        if self.settings.type == "tensors":
            items = self._tensors.rows_of(columns, path)
            self.check_count(len(items))
            return Payload(items, True)
        if len(columns) != 1 or not columns.keys() & set(self.names):
            raise ShapeMismatch(
                "Wrong input names", expected=str(list(self.names)), got=str(sorted(columns))
            )
        ((name, value),) = columns.items()
        place = f"{path}.{name}" if path else name
        if not self._carries_bytes and self.settings.type not in ("string", "request"):
            return Payload(*self._tensors.column(value, place))
        if isinstance(value, np.ndarray):
            return self._from_array(value, place)
        return self.from_json(value, path=place)

    @property
    def media_types(self) -> tuple[str, ...] | None:
        """The media types that `from_body` takes, of images the usual ones; None for any."""
        if self.settings.type == "request":
            return None
        images = (*IMAGE_TYPES, "image/*") if self._carries_bytes else ()
        known = {*filter(None, self._readers), *images}
        others = {other for other, kind in SAME.items() if kind in known}
        return tuple(sorted((known | others) - {"image/*"}))

    @property
    def spec(self) -> TensorSpec:
        """What one array of a model of one input is."""
        return self._tensors.spec

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the inputs, where a protocol has names: the model's own; one input also
        answers to its type's, which is the first where the model says none."""
        if self.settings.type == "tensors":
            return tuple(self._tensors.specs)
        own = tuple(self._tensors.specs) if len(self._tensors.specs) == 1 else ()
        return tuple(dict.fromkeys((*own, self.settings.type)))

    def from_object(self, value: Any, *, path: str) -> Encoded:
        """Read one item that a Python caller hands over: encoded bytes, an array (for an image as
        `ImageArrays` says), a string, a mapping, or an Invocation."""
        if self.settings.type == "request":
            return self.from_json_item(value, path=path)[0]
        try:
            if isinstance(value, np.ndarray) and self.settings.type == "image":
                return self._with_metadata(self._image_arrays.read(value))
            if isinstance(value, np.ndarray) and not self._carries_bytes:
                return self._tensors.one(value)
            if isinstance(value, bytes | bytearray | memoryview) and self._carries_bytes:
                return self._encoded.item(EncodedImage(bytes(value), {}))
        except (DecodeError, ShapeMismatch, RequestTooLarge) as exc:
            raise exc.at(path) from exc.__cause__
        items = self.from_json_item(value, path=path)
        if len(items) != 1:
            raise DecodeError("Not one item", expected="one image", got=str(len(items)), path=path)
        return items[0]

    def from_encoded(self, data: Buffer) -> list[Encoded]:
        """Read encoded bytes: one image, or the many of a packed stream."""
        return self._encoded.read(data)

    def decode(self, encoded: Encoded, out: Array | None = None) -> Item:
        """Decode an image to the model's array, into `out` if there is one; everything else is an
        item already.

        Raises:
            DecodeError: not an image, or a truncated one.
        """
        if not isinstance(encoded, EncodedImage):
            return encoded
        picture = image.decode_reduced(
            encoded.data,
            max_pixels=self._limits.max_pixels,
            least_size=self.preprocess.least_size,
            out=out,
        )
        array = self.preprocess(picture.pixels, out, picture.extent)
        return self._with_metadata(array, encoded.metadata)

    def _with_metadata(self, array: Array, metadata: Mapping[str, Any] | None = None) -> Item:
        """Return the item that a decoded image is for this model's codec."""
        if self.settings.codec == "json_metadata":
            return {**(metadata or {}), "data": array}
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

    def work_bytes(self, body: Buffer, content_type: str | None) -> int:
        """Return how much `from_body` has to do, as `json.work_bytes` measures it: an encoded image
        passes as it is, but for its header."""
        kind = media_type(content_type)
        if self.settings.type == "request":
            return 0
        if kind in self._readers and self._readers[kind] is self._readers.get(JSON):
            return json.work_bytes(body)
        is_octets = kind in ("", OCTETS, PACKED) or kind.startswith("image/")
        if is_octets and self.settings.codec == "packed_jpeg":
            return 0 if image_header.is_image(body) else len(body)
        if is_octets and self.settings.type in ("bytes", "image") and self._is_raw:
            return 0
        if self.settings.codec == "json_metadata":
            return len(body)
        return len(body) * WORK_BYTES[kind] if kind in WORK_BYTES else len(body) // TEXT_BYTES

    def _remedy(self, body: Buffer, kind: str) -> str | None:
        """Return what to do about a body of a type that the model does not take."""
        if (name := image_header.evident_format(body)) is None:
            return REMEDIES.get(kind)
        if self._carries_bytes:
            return f"The body is a {name} image: send it as image/{name.lower()}"
        return f"The body is a {name} image, which this model does not take"

    def _body_readers(self) -> dict[str, BodyReader]:
        def from_json(body: Buffer) -> Payload:
            raw = bytes(body)
            items = self._encoded.read_large(raw) if self._carries_bytes else None
            if items is not None:
                return Payload(items, False)
            return self.from_json(lenient_json.decode(raw))

        if self._carries_bytes:
            readers: dict[str, BodyReader] = {OCTETS: self._from_octets, JSON: from_json}
            declared = {
                "base64": self._from_text_or_octets,
                "base64_urlsafe": self._from_text_or_octets,
                "json_metadata": from_json,
            }
            readers[""] = declared.get(self.settings.codec, self._from_octets)
            if self.settings.codec == "packed_jpeg":
                readers[PACKED] = self._from_octets
            readers[TEXT] = self._from_text_or_octets
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
        return Payload(self._encoded.read(body), self._encoded.is_stream(body))

    def _from_text_or_octets(self, body: Buffer) -> Payload:
        """Read a body of which nobody says whether it is base64 or what that stands for."""
        return self._from_text(body) if image_header.is_text(body) else self._from_octets(body)

    def _from_text(self, body: Buffer) -> Payload:
        return Payload(self.from_json_item(_text(body), path=""), False)

    def _from_csv(self, body: Buffer) -> Payload:
        rows = csv.decode(body)
        items: list[Encoded] = []
        for index, row in enumerate(rows):
            try:
                items.append(self._tensors.row(row))
            except (DecodeError, ShapeMismatch) as exc:
                raise exc.at(f"rows[{index}]") from exc.__cause__
        return Payload(items, True)

    def _from_npy(self, body: Buffer) -> Payload:
        return Payload(*self._tensors.split(npy.decode(body), ""))

    def _from_image_arrays(self, value: Any, path: str) -> Payload:
        arrays, is_batch = self._image_arrays.split(value)
        self.check_count(len(arrays))
        self.check_pixels(arrays)
        items: list[Encoded] = []
        for index, array in enumerate(arrays):
            try:
                items.append(self._with_metadata(self._image_arrays.read(array)))
            except ShapeMismatch as exc:
                place = f"{path}[{index}]" if is_batch else path
                raise exc.at(place) if place else exc from exc.__cause__
        return Payload(items, is_batch)

    def _from_array(self, array: Array, path: str) -> Payload:
        """Read an array of numbers; encoded images may come as one row of uint8."""
        if self.settings.type == "image" and array.ndim > 1:
            return self._from_image_arrays(array, path)
        if self._carries_bytes and array.dtype == np.uint8 and array.ndim == 1:
            return Payload(self.from_json_item(array.tobytes(), path=path), False)
        raise ShapeMismatch(
            "Not bytes", expected=self.settings.type, got=describe(array), path=path
        )

    def _string(self, value: Any) -> str:
        if isinstance(value, bytes | memoryview):
            return _text(value)
        if not isinstance(value, str):
            raise DecodeError("Not a string", expected="a string", got=type(value).__name__)
        return value


def _text(data: Buffer) -> str:
    try:
        return bytes(data).decode()
    except UnicodeDecodeError as exc:
        raise DecodeError("Not text", expected="UTF-8", got=f"byte {exc.start}") from exc


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
