"""Images that one decoder shows and another does not: Pillow, with its defaults, is the measure."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from collections.abc import Sequence
from contextlib import suppress
from time import process_time

import numpy as np
import PIL.Image
import PIL.ImageOps
import PIL.PngImagePlugin
import pytest

from rayserve_app.codecs import image
from rayserve_app.codecs.image import ImageSize
from rayserve_app.errors import DecodeError, RequestTooLarge
from rayserve_app.types import Array
from tests.codecs.test_image import FILES, PIXELS, by_pillow, by_tifffile, chunk

FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]
LIMIT = 10**6
JPEG = FILES["rgb.jpg"]
PNG = FILES["rgb.png"]


def shown_by_pillow(data: bytes) -> Array:
    with PIL.Image.open(io.BytesIO(data), formats=FORMATS) as picture:
        return np.asarray(PIL.ImageOps.exif_transpose(picture).convert("RGB"))


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def jpeg_of(factors: Sequence[tuple[int, int]], width: int = 50, height: int = 37) -> bytes:
    """Write a JPEG of blocks of one value each, with these sampling factors (ITU-T T.81)."""
    most = [max(each[axis] for each in factors) for axis in (0, 1)]
    mcus = -(-width // (8 * most[0])) * -(-height // (8 * most[1]))
    # The first value of a block in one of 12 categories of 4 bits each; then its end, one bit.
    tables = b"\0" + bytes([0, 0, 0, 12, *bytes(12)]) + bytes(range(12))
    tables += b"\x10" + bytes([1, *bytes(15)]) + b"\0"
    frame = struct.pack(">BHHB", 8, height, width, len(factors))
    scan = bytes([len(factors)])
    for number, (across, down) in enumerate(factors, start=1):
        frame += bytes([number, across << 4 | down, 0])
        scan += bytes([number, 0])
    bits, before = "", [0] * len(factors)
    values = np.random.default_rng(0)
    for _ in range(mcus):
        for component, (across, down) in enumerate(factors):
            for value in values.integers(-60, 60, across * down).tolist():
                difference, before[component] = value - before[component], value
                size = abs(difference).bit_length()
                positive = difference if difference > 0 else difference + (1 << size) - 1
                bits += f"{size:04b}" + (f"{positive:0{size}b}" if size else "") + "0"
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\0")
    return b"".join(
        (
            b"\xff\xd8",
            segment(0xDB, b"\0" + bytes([8] * 64)),
            segment(0xC0, frame),
            segment(0xC4, tables),
            segment(0xDA, scan + b"\0\x3f\0"),
            data,
            b"\xff\xd9",
        )
    )


def with_stray(stray: bytes, *, before: int, data: bytes = JPEG) -> bytes:
    place = data.index(bytes([0xFF, before]))
    return data[:place] + stray + data[place:]


def bmp(data: bytes, *, bits: int, width: int, height: int) -> bytes:
    """Write a run-length encoded BMP; its palette is a ramp of blue."""
    palette = b"".join(bytes([255 - i, i // 2, 9, 0]) for i in range(1 << bits))
    start = 54 + len(palette)
    head = struct.pack("<2sIHHI", b"BM", start + len(data), 0, 0, start)
    info = (40, width, height, 1, bits, {8: 1, 4: 2}[bits], len(data), 0, 0, 1 << bits, 0)
    return head + struct.pack("<IiiHHIIiiII", *info) + palette + data


def run_lengths(rows: Array) -> bytes:
    """Encode each pixel as a run of one; pixels are 8 bits."""
    pairs = np.stack([np.ones_like(rows), rows], axis=-1)
    return b"".join(row.tobytes() + b"\0\0" for row in pairs) + b"\0\1"


def tiff(pixels: bytes, *, width: int, height: int, bits: int) -> bytes:
    """Write a grey TIFF of one strip."""
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 200, 277: 1, 278: height}
    tags[279] = len(pixels)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    return head.ljust(200, b"\0") + pixels


ROWS = np.random.default_rng(1).integers(0, 256, (40, 30)).astype(np.uint8)
LARGE_ROWS = np.tile(ROWS, (8, 10))
NUMBERS = np.linspace(-90, 400, 600).reshape(20, 30)

SUBSAMPLINGS = {
    "4:1:0": [(4, 2), (1, 1), (1, 1)],
    "121121": [(1, 2), (1, 1), (2, 1)],
    "211211": [(2, 1), (1, 2), (1, 1)],
    "221122": [(2, 2), (1, 1), (2, 2)],
    "222112": [(2, 2), (2, 1), (1, 2)],
    "1:3": [(3, 1), (1, 1), (1, 1)],
    "1:4 down": [(1, 4), (1, 1), (1, 1)],
    "grey": [(2, 2)],
}
ICC = segment(0xE2, b"ICC_PROFILE\0" + bytes([0, 0]) + b"profile")

SHOWN = {
    **{f"JPEG {name}": jpeg_of(factors) for name, factors in SUBSAMPLINGS.items()},
    "JPEG, stray bytes": with_stray(b"hello", before=0xDB),
    "JPEG, stray bytes at first": with_stray(b"\xff" + b"\0hello", before=0xE0),
    "JPEG, stray bytes before the frame": with_stray(bytes(99), before=0xC0),
    "JPEG, stray bytes before the scan": with_stray(b"hello", before=0xDA),
    "JPEG, an escaped byte": with_stray(b"\xff\0", before=0xDB),
    "JPEG, a segment longer than it says": with_stray(
        segment(0xEE, b"Adobe\0d\0\0") + b"\0\0\1", before=0xDB
    ),
    "JPEG, a broken ICC profile": with_stray(ICC, before=0xDB),
    "JPEG, a broken ICC profile behind the frame": with_stray(ICC, before=0xC4),
    "JPEG, damaged in its scan": JPEG[:-200] + bytes(8) + JPEG[-192:],
    "progressive JPEG, stray bytes": with_stray(
        b"hello", before=0xDB, data=FILES["progressive.jpg"]
    ),
    "BMP, run lengths": bmp(run_lengths(ROWS), bits=8, width=30, height=40),
    "BMP, run lengths, large": bmp(run_lengths(LARGE_ROWS), bits=8, width=300, height=320),
    "BMP, run lengths of 4 bits": bmp(b"\5\x12\3\x77\0\0" * 6 + b"\0\1", bits=4, width=8, height=6),
    "BMP, a run beyond its row": bmp(b"\x20\5\0\0" * 40 + b"\0\1", bits=8, width=30, height=40),
    "BMP, steps and plain pixels": bmp(
        b"\0\3abc\0\0\2\3\0\2\7\0\0" * 4 + b"\0\1", bits=8, width=8, height=4
    ),
    **{
        f"TIFF, {dtype}": by_tifffile(NUMBERS.astype(dtype))
        for dtype in ("f4", "i4", "i2", "u4", ">f4", ">i4")
    },
    "TIFF, a value beyond its end": by_tifffile(PIXELS, description="x" * 90).replace(
        struct.pack("<HHI", 270, 2, 91), struct.pack("<HHI", 270, 2, 65_000)
    ),
    "PNG without its end": PNG[:-12],
    "PNG without its last bytes": PNG[:-2],
    "PNG, cut behind its last row": PNG[:-20],
    "PNG, a damaged profile": PNG[:33] + chunk(b"iCCP", b"x\0\0not zlib") + PNG[33:],
    "PNG, a chunk before its head": PNG[:8] + chunk(b"teSt", b"?") + PNG[8:],
    "GIF, stray bytes": FILES["animated.gif"].replace(b"\x2c", b"hello\x2c", 1),
}


@pytest.mark.filterwarnings("ignore:Tag data larger")
@pytest.mark.parametrize("name", SHOWN)
def test_what_pillow_shows_is_shown(name: str) -> None:
    data = SHOWN[name]
    expected = shown_by_pillow(data)
    pixels = image.decode(data, max_pixels=LIMIT)
    np.testing.assert_array_equal(pixels, expected, strict=True)
    assert image.check_size(data, max_pixels=LIMIT) == ImageSize(*expected.shape[1::-1])
    reduced = image.decode_reduced(data, max_pixels=LIMIT, least_size=(2, 2))
    if reduced.extent == expected.shape[:2]:
        np.testing.assert_array_equal(reduced.pixels, expected)


@pytest.mark.parametrize("name", SHOWN)
def test_limits_hold_for_what_only_the_patient_way_shows(name: str) -> None:
    data = SHOWN[name]
    size = image.read_size(data)
    assert size is not None
    for refuse in (image.check_size, image.decode):
        with pytest.raises(RequestTooLarge, match="the image is too large"):
            refuse(data, max_pixels=size.width * size.height - 1)


def test_pixels_are_put_where_they_are_wanted() -> None:
    """What the fast decoder has begun to write does not matter."""
    data = SHOWN["JPEG, a broken ICC profile"]
    out = np.zeros((32, 48, 3), np.uint8)
    picture = image.decode_reduced(data, max_pixels=LIMIT, out=out)
    np.testing.assert_array_equal(picture.pixels, shown_by_pillow(data))


def test_a_png_is_shown_without_a_chunk_that_does_not_matter() -> None:
    """Pillow refuses these for a chunk that every other viewer skips."""
    for damaged in (
        chunk(b"iCCP", b"x\0\1" + zlib.compress(b"profile")),
        chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(10**7), 9)),
        chunk(b"tEXt", b"a\0b")[:-1] + b"?",
        chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(b"fcTL", b"short"),
    ):
        data = PNG[:33] + damaged + PNG[33:]
        np.testing.assert_array_equal(image.decode(data, max_pixels=LIMIT), PIXELS)


def test_floats_and_large_integers_are_clipped() -> None:
    expected = np.clip(NUMBERS, 0, 255).astype(np.uint8)
    for dtype in ("f4", "i4", "i2"):
        pixels = image.decode(by_tifffile(NUMBERS.astype(dtype)), max_pixels=LIMIT)
        np.testing.assert_array_equal(pixels[..., 1], expected)


def test_12_bits_keep_their_upper_8() -> None:
    values = np.arange(0, 4096, 8)
    pairs = values.reshape(-1, 2)
    packed = np.stack(
        [pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=-1
    )
    data = tiff(packed.astype(np.uint8).tobytes(), width=512, height=1, bits=12)
    np.testing.assert_array_equal(image.decode(data, max_pixels=LIMIT)[0, :, 0], values >> 4)


REFUSED = {
    "JPEG, cut in its scan": JPEG[:-300],
    "JPEG 4:1:0, cut": jpeg_of(SUBSAMPLINGS["4:1:0"])[:-30],
    "JPEG without a scan": with_stray(b"\xff\xd9", before=0xDA),
    "JPEG without a frame": with_stray(b"\xff\xd9", before=0xC0),
    "PNG, cut in its rows": PNG[: len(PNG) // 2],
    "PNG, damaged in its rows": PNG[:200] + b"????" + PNG[204:],
    "GIF, cut in its rows": FILES["animated.gif"][:100],
    "TIFF of 64 bits": by_tifffile(NUMBERS),
    "BMP, run lengths, cut": bmp(run_lengths(ROWS)[:400], bits=8, width=30, height=40),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_pillow_refuses_too(name: str) -> None:
    with pytest.raises(DecodeError):
        image.decode(REFUSED[name], max_pixels=LIMIT)
    with pytest.raises((OSError, SyntaxError, ValueError)):
        shown_by_pillow(REFUSED[name])


@pytest.mark.parametrize(
    "kind", ["PPM", "ICO", "TGA", "PCX", "JPEG2000", "SGI", "EPS", "DIB", "AVIF"]
)
def test_other_formats_are_refused_though_pillow_knows_them(kind: str) -> None:
    with pytest.raises(DecodeError, match="expected JPEG, PNG, WebP, GIF, BMP or TIFF, got"):
        image.decode(by_pillow(PIXELS, kind), max_pixels=LIMIT)


def overlapping_exif(entries: int) -> bytes:
    """A directory whose values are all of the 64 KB behind it, each by a name of its own."""
    table = b"".join(struct.pack("<HHII", 0x9000 + i, 1, 40_000, 8) for i in range(entries))
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, entries) + table + bytes(65_000 - len(table))


COSTLY = {
    "stray bytes before the frame": with_stray(b"a" * 8_000_000, before=0xC0),
    "stray bytes before the scan": with_stray(b"a" * 8_000_000, before=0xDA),
    "fill bytes before the scan": with_stray(b"\xff" * 8_000_000, before=0xDA),
    "segments before the scan": with_stray(segment(0xE5, b"") * 2_000_000, before=0xDA),
    "values of Exif in one place": with_stray(
        segment(0xE1, overlapping_exif(2000)) + b"?", before=0xDB
    ),
    "scans": with_stray(ICC, before=0xDB)[:-2] + b"\xff\xda\0\4\0\0" * 200_000 + b"\xff\xd9",
    "steps of run lengths": bmp(b"\0\2\0\0" * 2_000_000, bits=8, width=900, height=900),
    "run lengths": bmp(b"\1\5" * 4_000_000, bits=8, width=2000, height=2000),
    "chunks": PNG[:33] + chunk(b"teSt", b"") * 700_000 + PNG[33:],
    "GIF, stray bytes": FILES["animated.gif"].replace(b"\x2c", b"a" * 8_000_000 + b"\x2c", 1),
}


@pytest.mark.parametrize("name", COSTLY)
def test_the_patient_way_takes_no_longer_than_others(name: str) -> None:
    """Each takes Pillow seconds, or gigabytes; here a few ms, but for what OpenCV decodes."""
    start = process_time()
    with suppress(DecodeError):
        image.decode(COSTLY[name], max_pixels=10 * LIMIT)
    assert process_time() - start < 5


def test_values_of_exif_are_not_copied_out() -> None:
    data = COSTLY["values of Exif in one place"]
    tracemalloc.start()
    try:
        pixels = image.decode(data, max_pixels=LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(pixels, image.decode(JPEG, max_pixels=LIMIT))


XMP = '<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
XMP_ELEMENT = "<x:xmpmeta><tiff:Orientation>6</tiff:Orientation></x:xmpmeta>"


def upright_exif(orientation: int) -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    return exif


def oriented() -> dict[str, bytes]:
    """Images of which not Exif alone says how they are to be turned."""
    texts = PIL.PngImagePlugin.PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", XMP)
    exif = upright_exif(6).tobytes()
    profile = PIL.PngImagePlugin.PngInfo()
    profile.add_text("Raw profile type exif", f"\nexif\n{len(exif):8}\n{exif.hex()}\n", zip=True)
    xmp = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP.encode())
    silent = PIL.Image.Exif()
    silent[0x010F] = "maker"
    lossless = {"lossless": True, "xmp": XMP.encode()}
    return {
        "JPEG": with_stray(xmp, before=0xDB),
        "JPEG, an element": with_stray(
            segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP_ELEMENT.encode()), before=0xDB
        ),
        "JPEG, Exif of other things": with_stray(
            xmp, before=0xDB, data=by_pillow(PIXELS, "JPEG", exif=silent)
        ),
        "JPEG, Exif that says otherwise": with_stray(
            xmp, before=0xDB, data=by_pillow(PIXELS, "JPEG", exif=upright_exif(1))
        ),
        "PNG": by_pillow(PIXELS, "PNG", pnginfo=texts),
        "PNG of ImageMagick": by_pillow(PIXELS, "PNG", pnginfo=profile),
        "PNG, Exif that says otherwise": by_pillow(
            PIXELS, "PNG", pnginfo=texts, exif=upright_exif(3)
        ),
        "WebP": by_pillow(PIXELS, "WEBP", **lossless),
        "TIFF": by_tifffile(PIXELS, extratags=[(700, 1, len(XMP), XMP.encode(), True)]),
    }


@pytest.mark.parametrize("name", oriented())
def test_images_are_turned_as_pillow_turns_them(name: str) -> None:
    data = oriented()[name]
    expected = shown_by_pillow(data)
    assert expected.shape[:2] == ((32, 48) if "otherwise" in name else (48, 32))
    np.testing.assert_array_equal(image.decode(data, max_pixels=LIMIT), expected)
