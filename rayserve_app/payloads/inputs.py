"""From payloads to items: what a body or a JSON value becomes for a model's declared input.

Protocols find the payload in their envelope and hand it over; which codec reads it depends on the
model's input alone, so the same image arrives as the same item whatever protocol carried it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final

from rayserve_app.codecs import image_header
from rayserve_app.codecs.form import MULTIPART, URLENCODED
from rayserve_app.errors import (
    DecodeError,
    RequestTooLarge,
    ShapeMismatch,
    UnsupportedContentType,
)
from rayserve_app.media_types import IMAGE_TYPES, JSON, OCTETS, SAME, TEXT, media_type
from rayserve_app.payloads.array_items import Arrays, NamedArrays
from rayserve_app.payloads.decoded_images import DecodedImages
from rayserve_app.payloads.encoded_images import EncodedImages
from rayserve_app.payloads.image_arrays import ImageArrays
from rayserve_app.payloads.image_codecs import image_codec
from rayserve_app.payloads.items import Body, Encoded, ItemReader, Payload, text_work
from rayserve_app.payloads.payload_limits import PayloadLimits
from rayserve_app.payloads.plain_items import Requests, Strings
from rayserve_app.payloads.preprocessing import Preprocessing
from rayserve_app.payloads.tensor_inputs import TensorInputs
from rayserve_app.settings.model import InputSettings, LimitSettings
from rayserve_app.types import Array, Buffer, Invocation, Item, TensorSpec

MISTAKEN: Final = (JSON, TEXT, URLENCODED)
"""What clients call any body if they are not told otherwise: an image is taken for one all the
same."""

REMEDIES: Final = {
    URLENCODED: "This is what curl calls any body: say what it is with -H 'Content-Type: ...'",
    MULTIPART: "Send the file alone, as curl does with --data-binary",
}


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
        self._limits = PayloadLimits(limits, settings.size)
        self.check_count = self._limits.check_count
        self.check_pixels = self._limits.check_pixels
        self.tensors = TensorInputs(settings, specs, self.check_count)
        self.preprocess = Preprocessing(settings, normalizes=normalizes_images)
        self._reader = self._choose_reader()
        self.takes_tensors = self._reader.takes_tensors
        """Whether an item is an array, or several by name; else one string or encoded file."""
        self.takes_images = self._reader.takes_images
        """Whether an item may be the bytes of an image file."""
        self.needs_decoding = settings.type == "image"
        """Whether `decode` takes long enough to be worth a thread."""
        self.may_be_image = self.takes_images or settings.type == "string"
        """Whether an item may be an image, of which one that cannot be read fails alone where the
        protocol can say so."""
        known = sorted(filter(None, self._reader.bodies))
        self._known = " or ".join(known + ["image/*"] * self.takes_images)

    def _choose_reader(self) -> ItemReader:
        settings, names = self.settings, self.names
        kind, limits, tensors = settings.type, self._limits, self.tensors
        if kind == "image":
            arrays = ImageArrays(settings, self.preprocess)
            codec = image_codec(settings.codec)
            return DecodedImages(codec, names, limits, arrays, self.preprocess)
        if kind == "bytes" or settings.codec != "raw":
            return EncodedImages(kind, image_codec(settings.codec), names, limits)
        if kind == "string":
            return Strings(names, limits)
        if kind == "request":
            return Requests(names, limits)
        return (NamedArrays if kind == "tensors" else Arrays)(names, limits, tensors)

    def from_body(self, body: Buffer, content_type: str | None) -> Payload:
        """Read a whole body by its media type; without one, it is what the model declares.

        Raises:
            UnsupportedContentType: the model takes no such body; the sentence lists the known.
            DecodeError, ShapeMismatch, RequestTooLarge: the body does not fit.
        """
        if self.settings.type == "request":
            return Payload([Invocation(body, content_type)], False)
        if not len(body) and self.settings.type != "string":
            raise DecodeError("The body is empty", expected=self._known)
        kind = media_type(content_type)
        is_image = self.takes_images and (
            kind in MISTAKEN and image_header.evident_format(body) is not None
        )
        found = self._body(OCTETS if is_image else kind)
        if found is None:
            raise UnsupportedContentType(
                "Unsupported Content-Type",
                expected=self._known,
                got=repr(content_type),
                remedy=self._remedy(body, kind),
            )
        payload = found.read(body)
        self.check_count(len(payload.items))
        return payload

    def from_json(self, value: Any, *, path: str = "") -> Payload:
        """Read a parsed JSON value: one item, or a list of items."""
        return self._reader.read_values(value, path)

    def from_json_item(self, value: Any, *, path: str = "") -> list[Encoded]:
        """Read one JSON value as one item, or as the many of a packed stream. `bytes` may stand
        where a protocol has its own form of them."""
        return self._reader.read_at(value, path)

    def from_columns(self, columns: Mapping[str, Any], *, path: str = "") -> Payload:
        """Read named inputs of many items each: nested lists, lists of bytes, or arrays whose
        axis 0 counts the items.

        Raises:
            ShapeMismatch: another name than the model's, or columns of unlike length.
        """
        return self._reader.read_columns(columns, path)

    def from_object(self, value: Any, *, path: str) -> Encoded:
        """Read one item that a Python caller hands over: encoded bytes, an array (for an image as
        `ImageArrays` says), a string, a mapping, or an Invocation."""
        try:
            return self._reader.read_object(value)
        except (DecodeError, ShapeMismatch, RequestTooLarge) as exc:
            raise exc.at(path) from exc.__cause__

    def decode(self, encoded: Encoded, out: Array | None = None) -> Item:
        """Decode an image to the model's array, into `out` if there is one; everything else is an
        item already.

        Raises:
            DecodeError: not an image, or a truncated one.
        """
        return self._reader.decode(encoded, out)

    def work_bytes(self, body: Buffer, content_type: str | None) -> int:
        """Return how much `from_body` has to do, as `json.work_bytes` measures it: an encoded image
        passes as it is, but for its header."""
        if self.settings.type == "request":
            return 0
        # JSON Lines, which `from_body` does not take, are here as text is.
        found = self._body(media_type(content_type)) or self._reader.bodies.get(TEXT)
        return text_work(body) if found is None else found.work_bytes(body)

    @property
    def media_types(self) -> tuple[str, ...] | None:
        """The media types that `from_body` takes, of images the usual ones; None for any."""
        if self.settings.type == "request":
            return None
        images = (*IMAGE_TYPES, "image/*") if self.takes_images else ()
        known = {*filter(None, self._reader.bodies), *images}
        others = {other for other, kind in SAME.items() if kind in known}
        return tuple(sorted((known | others) - {"image/*"}))

    @cached_property
    def specs(self) -> tuple[TensorSpec, ...]:
        """What protocols say of the inputs, each with the axis of items first: the model's
        tensors, as far as it or the YAML says what they are; a string for an item that is none."""
        if self.settings.type == "tensors":
            return tuple(self.tensors.specs.values())
        if self.takes_tensors:
            return (self.tensors.spec._replace(name=self.names[0]),)
        return (TensorSpec(self.names[0], "string", (-1,)),)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the inputs, where a protocol has names: the model's own; one input also
        answers to its type's, which is the first where the model says none."""
        own = tuple(self.tensors.specs)
        if self.settings.type == "tensors":
            return own
        return tuple(dict.fromkeys((*(own if len(own) == 1 else ()), self.settings.type)))

    def _body(self, kind: str) -> Body | None:
        is_image = self.takes_images and kind.startswith("image/")
        return self._reader.bodies.get(OCTETS if is_image else kind)

    def _remedy(self, body: Buffer, kind: str) -> str | None:
        """Return what to do about a body of a type that the model does not take."""
        if (name := image_header.evident_format(body)) is None:
            return REMEDIES.get(kind)
        if self.takes_images:
            return f"The body is a {name} image: send it as image/{name.lower()}"
        return f"The body is a {name} image, which this model does not take"
