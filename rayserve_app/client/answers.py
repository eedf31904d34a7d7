"""What a server answered: its values, or the error that its status stands for."""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from time import time
from typing import Any, Final, NamedTuple

from rayserve_app import errors
from rayserve_app.client.errors import UnexpectedAnswer
from rayserve_app.codecs import json, lenient_json, npy
from rayserve_app.errors import DecodeError, ServingError
from rayserve_app.media_types import JSON, NPY, OCTETS, media_type
from rayserve_app.types import Array

ERRORS: Final[Mapping[int, type[ServingError]]] = {
    404: errors.ModelNotFound,
    406: errors.NotAcceptable,
    408: errors.BodyTimeout,
    413: errors.RequestTooLarge,
    415: errors.UnsupportedContentType,
    429: errors.Overloaded,
    500: errors.PredictError,
    502: errors.Unavailable,
    503: errors.Unavailable,
    504: errors.DeadlineExceeded,
}
"""By status; all others of 4xx are InvalidRequest, the rest UnexpectedAnswer."""

MAX_SENTENCE: Final = 500
"""Characters shown of an answer that is not in the server's own words."""


class Answer(NamedTuple):
    """One whole HTTP answer."""

    status: int
    headers: Mapping[str, str]
    """By lower-case name."""
    content: bytearray

    @property
    def media_type(self) -> str:
        """The body's media type alone, empty if there is none."""
        return media_type(self.headers.get("content-type"))

    @property
    def retry_after_s(self) -> float | None:
        """What `Retry-After` asks for (RFC 9110, section 10.2.3), in seconds or as a date."""
        value = self.headers.get("retry-after", "").strip()
        if value.isascii() and value.isdecimal():
            return float(value)
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - time())
        except ValueError:
            return None

    def error(self) -> ServingError | None:
        """Return the error that the answer is, with the server's own sentence."""
        if self.status == HTTPStatus.OK:
            return None
        kind = ERRORS.get(self.status)
        if kind is not None:
            return kind(self._sentence())
        if 400 <= self.status < 500:
            return errors.InvalidRequest(self._sentence())
        return UnexpectedAnswer(f"The server answered {self.status}", got=self._sentence())

    def value(self) -> Any:
        """Return what the body holds by its media type: an array, a JSON value, bytes, or text.

        Raises:
            UnexpectedAnswer: another media type, or not what it says.
        """
        kind = self.media_type
        try:
            if kind == NPY:
                return self._array()
            if kind == JSON:
                return lenient_json.decode(self.content)
            if kind == OCTETS:
                return bytes(self.content)
            if kind.startswith("text/") and kind != "text/html":
                return self.content.decode()
        except (DecodeError, UnicodeDecodeError) as exc:
            raise UnexpectedAnswer(f"The answer is not {kind}: {exc}") from exc
        raise UnexpectedAnswer(
            "Unknown kind of answer", expected=f"{NPY}, {JSON}, {OCTETS} or text", got=repr(kind)
        )

    def _array(self) -> Array:
        array = npy.decode(self.content)
        # The bytes are nobody else's.
        array.flags.writeable = True
        return array

    def _sentence(self) -> str:
        """Return what the server says: `{"error": …}` in JSON, or its text."""
        if self.media_type == JSON:
            try:
                value = json.decode(self.content)
            except DecodeError:
                value = None
            if isinstance(value, dict) and isinstance(value.get("error"), str):
                return str(value["error"])
        text = self.content.decode(errors="replace").strip()
        if text and self.media_type != "text/html":
            return text[:MAX_SENTENCE]
        try:
            return HTTPStatus(self.status).phrase
        except ValueError:
            return f"Status {self.status}"
