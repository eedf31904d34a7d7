"""What the headers of image files tell, without decoding a pixel.

JPEG: ITU-T T.81 annex B, and jdmarker.c of libjpeg for what stands between segments; Exif 2.32.
PNG: W3C PNG section 11.2.2. GIF: GIF89a specification. BMP: Windows BITMAPINFOHEADER. WebP: RFC
9649. TIFF: TIFF 6.0 section 2 and BigTIFF.
All loops are bounded, so a hostile file costs no more than a few milliseconds; what is out of
these bounds counts as damaged, which also keeps it from slower readers.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, TypeAlias

from rayserve_app.types import Buffer

Format: TypeAlias = Literal["JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF"]

_MAX_JPEG_SEGMENTS = 1000
_MAX_JPEG_STRAY = 1 << 14
_MAX_GIF_BLOCKS = 8192
_MAX_GIF_STRAY = 1 << 14
_MAX_TIFF_ENTRIES = 1024
_MIN_PNG_CHUNKS = 1000
_MAX_PNG_CHUNKS_AHEAD = 100
_MAX_TILE = 2048 * 2048

# Start-of-frame markers, but DHT (C4), JPG (C8) and DAC (CC).
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
# Markers without a length: TEM and RST0 to RST7.
_BARE = frozenset({0x01, *range(0xD0, 0xD8)})
# A second start, and the image's end.
_ENDS = frozenset({0xD8, 0xD9})
# What makes 0xFF no marker: it was data, or fills up.
_FILL = frozenset({0x00, 0xFF})
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)
_SCAN = 0xDA
_APP1 = 0xE1
_EXIF = b"Exif\0\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
# As Pillow looks for it: an attribute, or an element.
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')

_PRINTABLE = re.compile(rb"[\t\n\r -~]*")
_GIF_BLOCK = re.compile(rb"[\x21\x2c\x3b]")

_WIDTH, _HEIGHT, _ORIENTATION, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 274, 322, 323
_TIFF_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_TIFF_TYPE_SIZES |= {13: 4, 16: 8, 17: 8, 18: 8}

_TWO_SHORTS_BIG = struct.Struct(">HH")
_TWO_LONGS_BIG = struct.Struct(">II")


class Header(NamedTuple):
    """The head of an image file.

    `width` and `height` are as stored, before `orientation` applies (Exif, 1 to 8; 0 where none is
    stated), which is read of JPEG and TIFF only.
    """

    format: Format
    width: int
    height: int
    orientation: int = 0
    components: int = 0
    progressive: bool = False


def is_image(data: Buffer) -> bool:
    """Return whether the bytes begin as an image file does, however they go on."""
    return bytes(data[:4]).startswith(_MARKS)


def evident_format(data: Buffer) -> Format | None:
    """Return the format of what can be nothing but an image: text may begin with `BM` too."""
    if not is_image(data) or is_text(data):
        return None
    head = bytes(data[:4])
    return next(name for mark, name in _SIGNATURES.items() if head.startswith(mark))


def is_text(data: Buffer) -> bool:
    """Return whether the first bytes are what base64, JSON and forms are made of."""
    return _PRINTABLE.fullmatch(bytes(data[:64])) is not None


def read(data: Buffer) -> Header | None:
    """Return what the header tells, or None: no known format, or a damaged header."""
    view = memoryview(data)
    reader = _READERS.get(bytes(view[:2]))
    if reader is None:
        return None
    try:
        header = reader(view)
    except (IndexError, struct.error):  # the header ends too early
        return None
    return header if header is not None and header.width > 0 and header.height > 0 else None


def read_orientation(exif: Buffer, xmp: Buffer = b"") -> int:
    """Return the orientation, 1 to 8, that an Exif block states, or else a packet of XMP; 0 where
    neither does, or is damaged."""
    view = memoryview(exif)
    if bytes(view[: len(_EXIF)]) == _EXIF:
        view = view[len(_EXIF) :]
    try:
        directory = _read_directory(view)
    except (IndexError, struct.error):
        directory = None
    stated = 0 if directory is None else _valid_orientation(directory.tags)
    if not stated and (found := _XMP_ORIENTATION.search(xmp)):
        return int(found[1])
    return stated


def _valid_orientation(tags: dict[int, int]) -> int:
    orientation = tags.get(_ORIENTATION, 0)
    return orientation if 1 <= orientation <= 8 else 0


def has_few_chunks(data: Buffer) -> bool:
    """Return whether a PNG, whole or cut, is in chunks of a sensible size up to its end."""
    view, start = memoryview(data), 8
    for _ in range(_MIN_PNG_CHUNKS + len(view) // 1024):
        if start + 8 > len(view):
            return True
        length, kind = struct.unpack_from(">I4s", view, start)
        start += 12 + length
        if kind == b"IEND":
            return True
    return False


def critical_chunks(data: Buffer) -> bytes:
    """Return a PNG without the chunks that it can be shown without (section 5.4)."""
    view, start = memoryview(data), 8
    kept = [view[:start]]
    while start + 8 <= len(view):
        length, kind = struct.unpack_from(">I4s", view, start)
        if not kind[0] & 0x20:
            kept.append(view[start : start + 12 + length])
        start += 12 + length
    return b"".join(kept)


def has_short_head(data: Buffer) -> bool:
    """Return whether a JPEG comes to its first scan within the bounds of its header: what stands
    before it, slower readers go through byte by byte."""
    try:
        return any(marker == _SCAN for marker, _ in _segments(memoryview(data)))
    except (IndexError, struct.error):
        return False


def _read_jpeg(view: memoryview) -> Header | None:
    exif: Buffer | None = None
    xmp: Buffer = b""
    for marker, start in _segments(view):
        if marker == _SCAN:
            return None
        if marker in _FRAMES:
            height, width = _TWO_SHORTS_BIG.unpack_from(view, start + 3)
            components = view[start + 7]
            orientation = read_orientation(exif or b"", xmp) if exif or xmp else 0
            return Header("JPEG", width, height, orientation, components, marker in _PROGRESSIVE)
        if marker == _APP1:
            (length,) = struct.unpack_from(">H", view, start)
            content = view[start + 2 : start + length]
            if exif is None and bytes(content[: len(_EXIF)]) == _EXIF:
                exif = content
            elif bytes(content[: len(_XMP)]) == _XMP:
                xmp = content
    return None


def _segments(view: memoryview) -> Iterator[tuple[int, int]]:
    """Yield the markers of a JPEG that have a length, and where that stands.

    Between segments there may be stray and fill bytes, as far as libjpeg skips them.
    """
    start, stray = 2, 0
    for _ in range(_MAX_JPEG_SEGMENTS):
        marker = view[start + 1]
        if view[start] != 0xFF or marker in _FILL:
            found = _JPEG_MARKER.search(view[start : start + _MAX_JPEG_STRAY - stray])
            if found is None:
                return
            stray += found.start()
            start += found.start()
            marker = view[start + 1]
        start += 2
        if marker in _BARE:
            continue
        if marker in _ENDS:
            return
        yield marker, start
        start += max(view[start] << 8 | view[start + 1], 2)


def _read_png(view: memoryview) -> Header | None:
    if bytes(view[:8]) != b"\x89PNG\r\n\x1a\n":
        return None
    start = 8
    for _ in range(_MAX_PNG_CHUNKS_AHEAD):
        length, kind = struct.unpack_from(">I4s", view, start)
        if kind == b"IHDR":
            return Header("PNG", *_TWO_LONGS_BIG.unpack_from(view, start + 8))
        start += 12 + length
    return None


def _read_gif(view: memoryview) -> Header | None:
    """Take the larger of the logical screen and the first frame with its offset."""
    if bytes(view[:6]) not in (b"GIF87a", b"GIF89a"):
        return None
    width, height, flags = struct.unpack_from("<HHB", view, 6)
    start = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)  # behind the colour table
    in_extension = False
    for _ in range(_MAX_GIF_BLOCKS):
        introducer = view[start]
        if in_extension:
            start += 1 + introducer
            in_extension = introducer > 0
        elif introducer == 0x21:  # extension: a label, and sub-blocks up to an empty one
            start += 2
            in_extension = True
        elif introducer == 0x2C:  # image descriptor
            left, top, frame_width, frame_height = struct.unpack_from("<HHHH", view, start + 1)
            if frame_width == 0 or frame_height == 0:
                return None
            return Header("GIF", max(width, left + frame_width), max(height, top + frame_height))
        elif introducer == 0x3B:  # the end
            return None
        else:
            # As Pillow does; there may be any number, but only so many before a block.
            found = _GIF_BLOCK.search(view[start : start + _MAX_GIF_STRAY])
            if found is None:
                return None
            start += found.start()
    return None


def _read_bmp(view: memoryview) -> Header | None:
    (size,) = struct.unpack_from("<I", view, 14)
    if size == 12:  # BITMAPCOREHEADER
        return Header("BMP", *struct.unpack_from("<HH", view, 18))
    if not 16 <= size <= 256:
        return None
    width, height = struct.unpack_from("<ii", view, 18)
    return Header("BMP", width, abs(height))  # a negative height: rows from the top


def _read_webp(view: memoryview) -> Header | None:
    head = bytes(view[:26])
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return None
    chunk = head[12:16]
    if chunk == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", view, 26)
        return Header("WebP", width & 0x3FFF, height & 0x3FFF)
    if chunk == b"VP8L" and view[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", view, 21)
        return Header("WebP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if chunk == b"VP8X" and len(view) >= 30:
        width, height = (int.from_bytes(view[start : start + 3], "little") for start in (24, 27))
        return Header("WebP", width + 1, height + 1)
    return None


def _read_tiff(view: memoryview) -> Header | None:
    directory = _read_directory(view)
    # Values that overlap would let a small file fill the memory of whoever copies them out.
    if directory is None or directory.value_bytes > len(view):
        return None
    tags = directory.tags
    width, height = tags.get(_WIDTH, 0), tags.get(_HEIGHT, 0)
    # So would a small image in one huge tile.
    if tags.get(_TILE_WIDTH, 0) * tags.get(_TILE_HEIGHT, 0) > max(width * height, _MAX_TILE):
        return None
    return Header("TIFF", width, height, _valid_orientation(tags))


class _Directory(NamedTuple):
    """The first directory of a TIFF or Exif block: its single integers, and the size of all values
    that are whole."""

    tags: dict[int, int]
    value_bytes: int


def _read_directory(view: memoryview) -> _Directory | None:
    mark = bytes(view[:4])
    order = "<" if mark[:2] == b"II" else ">"
    if mark in (b"II*\0", b"MM\0*"):
        (start,) = struct.unpack_from(order + "I", view, 4)
        (count,), start = struct.unpack_from(order + "H", view, start), start + 2
        entry = struct.Struct(order + "HHI4s")
    elif mark in (b"II+\0", b"MM\0+"):  # BigTIFF
        (start,) = struct.unpack_from(order + "Q", view, 8)
        if start > len(view):
            return None
        (count,), start = struct.unpack_from(order + "Q", view, start), start + 8
        entry = struct.Struct(order + "HHQ8s")
    else:
        return None
    count = min(count, (len(view) - start) // entry.size)  # the last may be cut
    if not 0 <= count <= _MAX_TIFF_ENTRIES:
        return None
    return _read_entries(view[start : start + count * entry.size], entry, len(view))


def _read_entries(entries: memoryview, entry: struct.Struct, end: int) -> _Directory:
    byte_order: Literal["little", "big"] = "little" if entry.format[0] == "<" else "big"
    tags: dict[int, int] = {}
    total = 0
    for tag, kind, count, field in entry.iter_unpack(entries):
        size = _TIFF_TYPE_SIZES.get(kind, 0)  # what is of no known type nobody copies
        if size * count <= len(field) or int.from_bytes(field, byte_order) + size * count <= end:
            total += size * count
        if count == 1 and kind in (1, 3, 4, 16) and size <= len(field):
            tags[tag] = int.from_bytes(field[:size], byte_order)
    return _Directory(tags, total)


_SIGNATURES: dict[bytes, Format] = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"RIFF": "WebP",
    b"BM": "BMP",
    b"II*": "TIFF",
    b"II+": "TIFF",
    b"MM\0*": "TIFF",
    b"MM\0+": "TIFF",
    b"MM*": "TIFF",  # as `curl -d` leaves it
}
_MARKS = tuple(_SIGNATURES)

_READERS: dict[bytes, Callable[[memoryview], Header | None]] = {
    b"\xff\xd8": _read_jpeg,
    b"\x89P": _read_png,
    b"GI": _read_gif,
    b"BM": _read_bmp,
    b"RI": _read_webp,
    b"II": _read_tiff,
    b"MM": _read_tiff,
}
