"""HTML forms: multipart/form-data (RFC 7578) and application/x-www-form-urlencoded (URL standard).

Multipart is parsed by python-multipart, with the whole body at hand, so that each field's data is a
view of it. Nothing is written to disk, and file names are only text.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from rayserve_app.errors import DecodeError, RequestTooLarge, UnsupportedContentType
from rayserve_app.types import Buffer

MULTIPART: Final = "multipart/form-data"
URLENCODED: Final = "application/x-www-form-urlencoded"

MAX_FIELDS: Final = 1000

MAX_ESCAPES: Final = 1_000_000
"""`%XX` in one urlencoded body: each becomes an object of fifty bytes on the way."""

MAX_HEADER_BYTES: Final = 1024
"""One header line of a part, or the Content-Type of the whole: a file name of 255 bytes fits even
if each of them is escaped."""

LONG_BYTES: Final = 1 << 15
HEAD_LINE_BYTES: Final = 96
ESCAPED_BYTES: Final = 16
"""What a line of multipart takes to read, and a byte of urlencoded text, in bytes of JSON."""

_MAX_PADDING_BYTES: Final = 256
"""White space after a boundary, through which the parser goes byte by byte."""

_SILENT: Final = logging.Logger("python_multipart", logging.CRITICAL + 1)
"""Known to nobody: to configure logging, as servers do, enables all loggers that are known."""


class Field(NamedTuple):
    """One field of a form."""

    name: str
    filename: str | None
    """What the client calls an uploaded file; empty where a browser's user chose none, None where
    the field is no file."""
    content_type: str | None
    data: Buffer

    @property
    def text(self) -> str:
        """The data as text.

        Raises:
            DecodeError: not UTF-8.
        """
        return _text(bytes(self.data), self.name)


def parse(body: Buffer, content_type: str | None, *, max_fields: int = MAX_FIELDS) -> list[Field]:
    """Return the fields of a form in their order, repeated ones too.

    The data of multipart fields are views of one copy of the body, or of the body itself if that
    is `bytes`.

    Args:
        content_type: the header, with multipart's boundary.

    Raises:
        UnsupportedContentType: another media type.
        DecodeError: not such a form, or one that is cut.
        RequestTooLarge: more than `max_fields` fields, or MAX_ESCAPES.
    """
    if len(content_type or "") > MAX_HEADER_BYTES:
        raise DecodeError("The Content-Type is too long", expected=f"at most {MAX_HEADER_BYTES}")
    kind, parameters = parse_options_header(content_type)
    if kind == MULTIPART.encode():
        boundary = parameters.get(b"boundary", b"")
        if not boundary:
            raise DecodeError("The Content-Type has no boundary", got=repr(content_type))
        return _parse_multipart(_without_preamble(bytes(body), boundary), boundary, max_fields)
    if kind == URLENCODED.encode():
        return _parse_urlencoded(bytes(body), max_fields)
    raise UnsupportedContentType(
        "Not a form", expected=f"{MULTIPART} or {URLENCODED}", got=repr(content_type)
    )


def is_form(kind: str) -> bool:
    """Return whether a media type, in lower case, is a form's."""
    return kind in (MULTIPART, URLENCODED)


def work_bytes(body: Buffer, content_type: str | None) -> int:
    """Return how much `parse` has to do, as `json.work_bytes` measures it: a file passes as it is,
    but its head is read byte by byte."""
    if (content_type or "").lower().startswith(MULTIPART):
        return len(body) // 8 + HEAD_LINE_BYTES * bytes(body[:LONG_BYTES]).count(b"\r\n")
    return ESCAPED_BYTES * len(body)


class _Parts:
    """What the parser calls back; each piece that it finds arrives whole, as a slice of the body.

    An instance holds the part that is being read.
    """

    def __init__(self, body: bytes) -> None:
        self._view = memoryview(body)
        self.fields: list[Field] = []
        self.is_complete = False
        self.begin()

    def begin(self) -> None:
        self._headers: dict[bytes, bytes] = {}
        self._data: Buffer = b""

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name = data[start:end].lower()

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._headers[self._header_name] = data[start:end]

    def part_data(self, _: bytes, start: int, end: int) -> None:
        self._data = self._view[start:end]

    def end_part(self) -> None:
        path = f"[{len(self.fields)}]"
        kind, parameters = parse_options_header(
            self._headers.get(b"content-disposition", b"").decode("latin-1")
        )
        # RFC 7578, section 4.2: each part must have both.
        if kind != b"form-data" or b"name" not in parameters:
            raise DecodeError(
                "Not a field of a form",
                expected='`Content-Disposition: form-data; name="..."`',
                path=path,
            )
        filename = parameters.get(b"filename")
        content_type = self._headers.get(b"content-type")
        field = Field(
            _text(parameters[b"name"], path),
            None if filename is None else filename.decode("utf-8", "replace"),
            None if content_type is None else content_type.decode("latin-1"),
            self._data,
        )
        self.fields.append(field)

    def end(self) -> None:
        self.is_complete = True


def _parse_multipart(body: bytes, boundary: bytes, max_fields: int) -> list[Field]:
    _check_delimiters(body, boundary, max_fields)
    parts = _Parts(body)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": parts.begin,
                "on_header_field": parts.header_field,
                "on_header_value": parts.header_value,
                "on_part_data": parts.part_data,
                "on_part_end": parts.end_part,
                "on_end": parts.end,
            },
            max_header_size=MAX_HEADER_BYTES,
        )
        # It would log a warning per malformed form, which is for the client to know.
        parser.logger = _SILENT
        parser.write(body)
    except FormParserError as exc:
        raise DecodeError(f"Not {MULTIPART}: {exc}") from exc
    if not parts.is_complete:
        raise DecodeError(
            f"The {MULTIPART} body is cut", expected=f"--{boundary.decode('latin-1')}-- at its end"
        )
    return parts.fields


def _without_preamble(body: bytes, boundary: bytes) -> bytes:
    """Return what begins with the first delimiter: a preamble is ignored (RFC 2046, 5.1.1)."""
    delimiter = b"--" + boundary
    start = 0 if body.startswith(delimiter) else body.find(b"\r\n" + delimiter) + 2
    while start != 1:
        end = start + len(delimiter)
        after = body[end : end + _MAX_PADDING_BYTES].lstrip(b" \t")
        if after.startswith((b"\r\n", b"--")):
            return body[start:] if start else body
        # The beginning of another boundary.
        start = body.find(b"\r\n" + delimiter, end) + 2
    return body


def _check_delimiters(body: bytes, boundary: bytes, max_fields: int) -> None:
    """Refuse what the parser would take a step of Python per byte for, before it begins."""
    delimiter = b"--" + boundary
    end, count = 0, 0
    # `find` skips through the data; a regular expression would look at each byte of it.
    while (start := body.find(delimiter, end)) >= 0:
        if count > max_fields:
            raise _too_many_fields(max_fields)
        end = start + len(delimiter)
        after = body[end : end + _MAX_PADDING_BYTES + 1]
        if len(after) - len(after.lstrip(b" \t")) > _MAX_PADDING_BYTES:
            raise DecodeError("Too much white space after a boundary", path=f"[{count}]")
        count += 1


def _parse_urlencoded(body: bytes, max_fields: int) -> list[Field]:
    if body.count(b"%") > MAX_ESCAPES:
        raise RequestTooLarge(
            "The form has too many escapes",
            expected=f"at most {MAX_ESCAPES}",
            remedy=f"Send {MULTIPART}",
        )
    if not body:
        return []
    if body.count(b"&") >= max_fields:
        raise _too_many_fields(max_fields)
    # latin-1 has a character for each byte, so that values need not be text.
    pairs: Sequence[tuple[str, str]] = parse_qsl(
        body.decode("latin-1"), keep_blank_values=True, encoding="latin-1"
    )
    return [
        Field(_text(name.encode("latin-1"), f"[{index}]"), None, None, value.encode("latin-1"))
        for index, (name, value) in enumerate(pairs)
    ]


def _text(data: bytes, path: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise DecodeError("Not text", expected="UTF-8", got=f"byte {exc.start}", path=path) from exc


def _too_many_fields(most: int) -> RequestTooLarge:
    return RequestTooLarge("The form has too many fields", expected=f"at most {most}")
