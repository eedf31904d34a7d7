"""What the headers of image files tell, without decoding a pixel.

JPEG: ITU-T T.81 annex B, Exif 2.32. PNG: W3C PNG section 11.2.2. GIF: GIF89a specification. BMP:
Windows BITMAPINFOHEADER. WebP: RFC 9649. TIFF: TIFF 6.0 section 2 and BigTIFF.
All loops are bounded, so a hostile file costs no more than a few milliseconds; what is out of
these bounds counts as damaged, which also keeps it from slower readers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

from rayserve_app.types import Buffer

Format: TypeAlias = Literal["JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF"]

_MAX_JPEG_SEGMENTS = 1000
_MAX_GIF_BLOCKS = 8192
_MAX_TIFF_ENTRIES = 1024
_MIN_PNG_CHUNKS = 1000
_MAX_TILE = 2048 * 2048

# Start-of-frame markers, but DHT (C4), JPG (C8) and DAC (CC).
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
# Markers without a length, and those that may not stand before the frame.
_NOT_SEGMENTS = frozenset({0x00, 0x01, *range(0xD0, 0xDB)})
_APP1 = 0xE1

_WIDTH, _HEIGHT, _ORIENTATION, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 274, 322, 323
_TIFF_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_TIFF_TYPE_SIZES |= {13: 4, 16: 8, 17: 8, 18: 8}

_TWO_SHORTS_BIG = struct.Struct(">HH")
_TWO_LONGS_BIG = struct.Struct(">II")


class Header(NamedTuple):
    """The head of an image file.

    `width` and `height` are as stored, before `orientation` (Exif, 1 to 8) applies, which is read
    of JPEG and TIFF only.
    """

    format: Format
    width: int
    height: int
    orientation: int = 1
    components: int = 0
    progressive: bool = False


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


def read_orientation(exif: Buffer) -> int:
    """Return the orientation, 1 to 8, of an Exif block; 1 where it has none or is damaged."""
    view = memoryview(exif)
    if bytes(view[:6]) == b"Exif\0\0":
        view = view[6:]
    try:
        directory = _read_directory(view)
    except (IndexError, struct.error):
        return 1
    return 1 if directory is None else _valid_orientation(directory.tags)


def _valid_orientation(tags: dict[int, int]) -> int:
    orientation = tags.get(_ORIENTATION, 1)
    return orientation if 1 <= orientation <= 8 else 1


def has_png_end(data: Buffer) -> bool:
    """Return whether a PNG's chunks lead to its end, in chunks of a sensible size."""
    view, start = memoryview(data), 8
    for _ in range(_MIN_PNG_CHUNKS + len(view) // 1024):
        if start + 12 > len(view):
            return False
        length, kind = struct.unpack_from(">I4s", view, start)
        start += 12 + length
        if kind == b"IEND":
            return bool(start <= len(view))
    return False


def _read_jpeg(view: memoryview) -> Header | None:
    start, orientation = 2, 1
    for _ in range(_MAX_JPEG_SEGMENTS):
        if view[start] != 0xFF:
            return None
        marker = view[start + 1]
        if marker == 0xFF:  # a fill byte
            start += 1
            continue
        if marker in _NOT_SEGMENTS:
            return None
        (length,) = struct.unpack_from(">H", view, start + 2)
        if marker in _FRAMES:
            height, width = _TWO_SHORTS_BIG.unpack_from(view, start + 5)
            components = view[start + 9]
            progressive = marker in _PROGRESSIVE
            return Header("JPEG", width, height, orientation, components, progressive)
        if marker == _APP1 and bytes(view[start + 4 : start + 10]) == b"Exif\0\0":
            orientation = read_orientation(view[start + 4 : start + 2 + length])
        start += 2 + max(length, 2)
    return None


def _read_png(view: memoryview) -> Header | None:
    head = bytes(view[:16])
    if not (head.startswith(b"\x89PNG\r\n\x1a\n") and head.endswith(b"IHDR")):
        return None
    return Header("PNG", *_TWO_LONGS_BIG.unpack_from(view, 16))


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
        else:
            return None
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
    """The first directory of a TIFF or Exif block: its single integers, and the size of all."""

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
    if count > _MAX_TIFF_ENTRIES or start + count * entry.size > len(view):
        return None
    return _read_entries(view[start : start + count * entry.size], entry)


def _read_entries(entries: memoryview, entry: struct.Struct) -> _Directory:
    byte_order: Literal["little", "big"] = "little" if entry.format[0] == "<" else "big"
    tags: dict[int, int] = {}
    total = 0
    for tag, kind, count, field in entry.iter_unpack(entries):
        size = _TIFF_TYPE_SIZES.get(kind, 1)
        total += size * count
        if count == 1 and kind in (1, 3, 4, 16) and size <= len(field):
            tags[tag] = int.from_bytes(field[:size], byte_order)
    return _Directory(tags, total)


_READERS: dict[bytes, Callable[[memoryview], Header | None]] = {
    b"\xff\xd8": _read_jpeg,
    b"\x89P": _read_png,
    b"GI": _read_gif,
    b"BM": _read_bmp,
    b"RI": _read_webp,
    b"II": _read_tiff,
    b"MM": _read_tiff,
}
