from __future__ import annotations

import io
import struct
import sys
import timeit
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from time import perf_counter

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import skimage.data
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_sample_images

from rayserve_app.codecs import image
from rayserve_app.codecs.image import ImageSize
from rayserve_app.errors import DecodeError, InvalidRequest, RequestTooLarge
from rayserve_app.types import Array

GOLDEN = Path(__file__).parent / "golden" / "image"
FILES = {path.name: path.read_bytes() for path in sorted(GOLDEN.iterdir()) if path.suffix != ".npy"}
PIXELS = np.load(GOLDEN / "pixels.npy")
RED = PIXELS[..., 0]
LIMIT = 10**6
fast = settings(derandomize=True, deadline=None, max_examples=150)


def grey(pixels: Array) -> Array:
    return np.repeat(pixels[..., None], 3, axis=2)


def by_opencv(data: bytes) -> Array:
    """Decode as stored, to RGB."""
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags)[..., ::-1]


def by_pillow(pixels: Array | PIL.Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture = pixels if isinstance(pixels, PIL.Image.Image) else PIL.Image.fromarray(pixels)
    picture.save(file, kind, **options)
    return file.getvalue()


def by_tifffile(pixels: Array, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rgb.png", PIXELS),
        ("rgb.bmp", PIXELS),
        ("rgb.tif", PIXELS),
        ("tiled.tif", PIXELS),
        ("lossless.webp", PIXELS),
        ("rgba.png", PIXELS),
        ("rgba.webp", PIXELS),
        ("rgb16.png", PIXELS),
        ("pages.tif", PIXELS),
        ("grey16.png", grey(RED)),
        ("grey16.tif", grey(RED)),
        ("grey16_white_is_zero.tif", grey(RED)),
        ("bilevel.png", grey(np.where(RED > 128, 255, 0).astype(np.uint8))),
        ("animated.gif", grey(np.load(GOLDEN / "gif_pixels.npy"))),
        ("rgb.jpg", by_opencv(FILES["rgb.jpg"])),
        ("progressive.jpg", by_opencv(FILES["progressive.jpg"])),
        ("grey.jpg", by_opencv(FILES["grey.jpg"])),
        ("lossy.webp", by_opencv(FILES["lossy.webp"])),
    ],
)
def test_reads_what_other_tools_wrote(name: str, expected: Array) -> None:
    view = memoryview(b"head" + FILES[name])[4:]
    pixels = image.decode(view, max_pixels=LIMIT)
    np.testing.assert_array_equal(pixels, expected, strict=True)
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert image.read_size(view) == ImageSize(48, 32)


@pytest.mark.parametrize("name", ["astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg"])
def test_photographs_of_scikit_image(name: str) -> None:
    data = (Path(skimage.data.__file__).parent / name).read_bytes()
    expected = getattr(skimage.data, name.split(".")[0])()
    pixels = image.decode(data, max_pixels=LIMIT)
    # Two libjpegs may round differently.
    np.testing.assert_allclose(pixels, expected, atol=2 if name.endswith("jpg") else 0)
    assert image.read_size(data) == ImageSize(expected.shape[1], expected.shape[0])


def test_photographs_of_scikit_learn() -> None:
    samples = load_sample_images()
    for name, expected in zip(samples.filenames, samples.images, strict=True):
        data = Path(name).read_bytes()
        np.testing.assert_allclose(image.decode(data, max_pixels=LIMIT), expected, atol=2)


MODES = {
    "PNG": ["1", "L", "LA", "P", "RGBA", "I;16"],
    "TIFF": ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "I;16"],
    "JPEG": ["1", "L", "CMYK", "YCbCr"],
    "GIF": ["1", "L", "LA", "P", "RGBA"],
    "BMP": ["1", "L", "P", "RGBA"],
    "WEBP": ["1", "L", "LA", "P", "RGBA", "CMYK"],
}


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind in MODES for mode in MODES[kind]])
def test_every_mode_becomes_rgb(kind: str, mode: str) -> None:
    value = 255 if mode == "1" else 200
    flat = np.full((4, 6), value, np.uint8)
    if mode == "I;16":
        picture = PIL.Image.fromarray(flat.astype(np.uint16) * 256 + 9)
    elif mode in ("LA", "PA"):
        picture = PIL.Image.fromarray(flat).convert(mode[0]).convert(mode)
    else:
        picture = PIL.Image.fromarray(grey(flat)).convert(mode)
    data = by_pillow(picture, kind)
    pixels = image.decode(data, max_pixels=LIMIT)
    assert (pixels.shape, pixels.dtype) == ((4, 6, 3), np.uint8)
    # Palettes of the 216 web colours are coarse, JPEG and YCbCr round.
    np.testing.assert_allclose(pixels, value, atol=6)


def test_alpha_is_dropped_not_composited() -> None:
    rgba = np.dstack([PIXELS, np.zeros_like(RED)])
    np.testing.assert_array_equal(image.decode(by_pillow(rgba, "PNG"), max_pixels=LIMIT), PIXELS)


def test_cmyk_jpeg() -> None:
    cmyk = np.zeros((8, 24, 4), np.uint8)
    cmyk[:, :8, 0] = cmyk[:, 8:16, 1] = cmyk[:, 16:, 3] = 255
    data = by_pillow(PIL.Image.frombytes("CMYK", (24, 8), cmyk.tobytes()), "JPEG", quality=100)
    pixels = image.decode(data, max_pixels=LIMIT)
    np.testing.assert_allclose(pixels[4, [4, 12, 20]], by_opencv(data)[4, [4, 12, 20]], atol=3)
    np.testing.assert_allclose(pixels[4, 4], [0, 255, 255], atol=3)


STORED = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
UPRIGHT = {
    1: STORED,
    2: np.fliplr(STORED),
    3: np.rot90(STORED, 2),
    4: np.flipud(STORED),
    5: STORED.T,
    6: np.rot90(STORED, -1),
    7: np.rot90(STORED, 2).T,
    8: np.rot90(STORED, 1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(kind: str, orientation: int) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "lossless": True, "exif": exif}
    stored = np.kron(STORED, np.ones((8, 8), np.uint8))
    if kind == "TIFF":
        data = by_tifffile(stored, extratags=[(274, 3, 1, orientation, True)])
    else:
        data = by_pillow(grey(stored), kind, **options)
    pixels = image.decode(data, max_pixels=LIMIT)
    expected = np.kron(UPRIGHT[orientation], np.ones((8, 8), np.uint8))
    np.testing.assert_allclose(pixels, grey(expected), atol=2)
    assert pixels.flags.c_contiguous
    assert image.read_size(data) == ImageSize(24, 16)


def test_opencv_turns_photographs_the_same_way() -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    data = by_pillow(PIXELS, "JPEG", exif=exif)
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(image.decode(data, max_pixels=LIMIT), expected)


@pytest.mark.parametrize("block", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0what"])
def test_a_damaged_exif_block_does_not_matter(block: bytes) -> None:
    segment = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
    data = FILES["rgb.jpg"][:2] + segment + FILES["rgb.jpg"][2:]
    assert image.decode(data, max_pixels=LIMIT).shape == (32, 48, 3)


def test_fill_bytes_and_padding_of_cameras_are_taken() -> None:
    data = FILES["rgb.jpg"]
    padded = data[:2] + b"\xff" * 9 + data[2:-2] + b"\x80" * 99 + data[-2:] + b"behind the end"
    assert image.read_size(padded) == ImageSize(48, 32)
    np.testing.assert_array_equal(image.decode(padded, max_pixels=LIMIT), by_opencv(data))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*sizes: tuple[int, int]) -> bytes:
    heads = [chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)) for size in sizes]
    return b"\x89PNG\r\n\x1a\n" + b"".join(heads)


def tiff(mark: bytes = b"II*\0", **tags: int) -> bytes:
    numbers = {"width": 256, "height": 257, "tile_width": 322, "tile_height": 323}
    order = "<" if mark[:2] == b"II" else ">"
    entries = [struct.pack(order + "HHII", numbers[tag], 4, 1, tags[tag]) for tag in tags]
    return mark + struct.pack(order + "IH", 8, len(entries)) + b"".join(entries) + bytes(4)


def gif(screen: tuple[int, int], frame: tuple[int, int, int, int]) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + bytes(6)
    return head + b"\x21\xfe\3abc\0" + b"\x2c" + struct.pack("<HHHHB", *frame, 0)


def webp(kind: bytes, data: bytes) -> bytes:
    return b"RIFF" + bytes(4) + b"WEBP" + kind + struct.pack("<I", len(data)) + data


WIDE = (50_000).to_bytes(3, "little")
BOMBS = {
    "PNG": (png((50_000, 50_000)), 50_000),
    "JPEG": (b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 17, 8, 50_000, 50_000, 3), 50_000),
    "progressive": (b"\xff\xd8\xff\xc2" + struct.pack(">HBHHB", 17, 8, 50_000, 50_000, 3), 50_000),
    "GIF screen": (gif((50_000, 50_000), (0, 0, 1, 1)), 50_000),
    "GIF frame": (gif((1, 1), (1000, 0, 49_000, 50_000)), 50_000),
    "BMP": (b"BM" + bytes(12) + struct.pack("<IiiHH", 40, 50_000, -50_000, 1, 24), 50_000),
    "BMP core": (b"BM" + bytes(12) + struct.pack("<IHHHH", 12, 50_000, 50_000, 1, 24), 50_000),
    "WebP VP8X": (webp(b"VP8X", bytes(4) + WIDE + WIDE), 50_001),
    "WebP VP8L": (webp(b"VP8L", b"\x2f" + struct.pack("<I", 16382 << 14 | 16382)), 16383),
    "WebP VP8": (webp(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 16383, 16383)), 16383),
    "TIFF": (tiff(width=50_000, height=50_000), 50_000),
    "TIFF big-endian": (tiff(b"MM\0*", width=50_000, height=50_000), 50_000),
}


@pytest.mark.parametrize("name", BOMBS)
def test_refuses_a_bomb_by_its_header_alone(name: str) -> None:
    """The data ends behind the header: to decode it would be another error."""
    data, side = BOMBS[name]
    assert image.read_size(data) == ImageSize(side, side)
    sentence = f"expected at most 1000000 pixels, got {side} x {side} = {side * side}$"
    for refuse in (image.check_size, image.decode):
        with pytest.raises(RequestTooLarge, match=sentence):
            refuse(data, max_pixels=LIMIT)
    with pytest.raises(InvalidRequest):
        image.decode(data, max_pixels=10**10)


@pytest.mark.parametrize("name", BOMBS)
def test_refuses_a_bomb_in_less_than_5_ms(name: str) -> None:
    """The best of 20, behind a body as large as a bomb's may be."""
    data = BOMBS[name][0] + bytes(10_000_000)

    def refuse() -> None:
        with pytest.raises(RequestTooLarge):
            image.check_size(data, max_pixels=LIMIT)

    assert min(timeit.repeat(refuse, repeat=20, number=1)) < 0.005


def test_the_limit_itself_is_allowed() -> None:
    assert image.check_size(FILES["rgb.png"], max_pixels=48 * 32) == ImageSize(48, 32)
    with pytest.raises(RequestTooLarge):
        image.check_size(FILES["rgb.png"], max_pixels=48 * 32 - 1)


def test_a_second_header_cannot_enlarge_the_image() -> None:
    body = chunk(b"IDAT", zlib.compress(bytes(20))) + chunk(b"IEND", b"")
    with pytest.raises(RequestTooLarge, match="got 9000 x 9000"):
        image.decode(png((4, 4), (9000, 9000)) + body, max_pixels=LIMIT)


HOSTILE = {
    "chunks": png((4, 4)) + chunk(b"teSt", b"") * 200_000,
    "scans": FILES["progressive.jpg"][:-2] + FILES["progressive.jpg"][-99:-2] + b"\xff\xda" * 99,
    "fill bytes": b"\xff\xd8" + b"\xff" * 3_000_000,
    "segments": b"\xff\xd8" + b"\xff\xe0\0\2" * 1_000_000,
    "comments": gif((4, 4), (0, 0, 4, 4))[:19] + b"\x21\xfe\1a\0" * 1_000_000,
    "sub-blocks": gif((4, 4), (0, 0, 4, 4))[:19] + b"\x21\xfe" + b"\1a" * 1_000_000,
    "tile": tiff(width=16, height=16, tile_width=40_000, tile_height=40_000),
    "entries": b"II*\0" + struct.pack("<IH", 8, 65535) + bytes(12 * 65535),
    "overlap": b"II*\0"
    + struct.pack("<IH", 8, 1000)
    + b"".join(struct.pack("<HHII", tag, 1, 1_000_000, 8) for tag in range(1000))
    + bytes(1_000_000),
    "directory": b"II+\0" + struct.pack("<HHQ", 8, 0, 2**64 - 1),
    "run lengths": b"BM"
    + struct.pack("<IHHI", 0, 0, 0, 1078)
    + struct.pack("<IiiHHIIiiII", 40, 900, 900, 1, 8, 1, 0, 0, 0, 256, 0)
    + bytes(1024)
    + b"\0\2\0\0" * 1_000_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_refuses_what_would_keep_a_decoder_busy(name: str) -> None:
    with pytest.raises(DecodeError, match=r"damaged|too many|run-length"):
        image.decode(HOSTILE[name], max_pixels=LIMIT)


@pytest.mark.parametrize("name", FILES)
def test_refuses_truncated_images(name: str) -> None:
    data = FILES[name]
    for length in (0, 1, 2, 4, 12, 20, 30, len(data) // 3, len(data) // 2, len(data) * 3 // 4):
        if name in ("pages.tif", "animated.gif") and length > len(data) // 2:
            continue  # the first page is whole
        with pytest.raises(DecodeError):
            image.decode(data[:length], max_pixels=LIMIT)


@pytest.mark.parametrize("name", ["rgb.jpg", "progressive.jpg", "rgb.bmp", "lossy.webp"])
def test_refuses_an_image_without_its_last_bytes(name: str) -> None:
    with pytest.raises(DecodeError):
        image.decode(FILES[name][:-2], max_pixels=LIMIT)


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"%PDF-1.7", b"\0\0\1\0\1\0", b"P6 1 1 255 abc", b"BM", b"II", b"GIF89b"]
)
def test_refuses_what_is_no_image_and_lists_the_formats(data: bytes) -> None:
    assert image.read_size(data) is None
    assert image.check_size(data, max_pixels=1) is None
    with pytest.raises(
        DecodeError, match=rf"JPEG, PNG, WebP, GIF, BMP or TIFF, got {len(data)} bytes that start"
    ):
        image.decode(data, max_pixels=LIMIT)


@pytest.mark.parametrize("name", ["rgb.png", "rgb.bmp", "rgb.jpg"])
def test_pillows_own_limit_does_not_interfere(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10)
    assert image.decode(FILES[name], max_pixels=LIMIT).shape == (32, 48, 3)


@pytest.mark.parametrize("name", ["rgb.tif", "lossy.webp"])
def test_pillows_own_limit_is_told_as_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """TIFF and WebP files Pillow checks on its own."""
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(RequestTooLarge, match="too large for its decoder"):
        image.decode(FILES[name], max_pixels=LIMIT)


@pytest.mark.filterwarnings("error")
def test_sound_images_warn_of_nothing() -> None:
    for data in FILES.values():
        assert image.decode(data, max_pixels=LIMIT).shape == (32, 48, 3)


def test_decodes_in_threads() -> None:
    names = [*FILES] * 8
    with ThreadPoolExecutor(4) as pool:
        decoded = pool.map(lambda name: image.decode(FILES[name], max_pixels=LIMIT), names)
    once = {name: image.decode(FILES[name], max_pixels=LIMIT) for name in FILES}
    for name, pixels in zip(names, decoded, strict=True):
        np.testing.assert_array_equal(pixels, once[name])


@fast
@given(st.sampled_from([*FILES.values()]), st.data())
def test_damaged_images_raise_invalid_request_at_most(original: bytes, draw: st.DataObject) -> None:
    data = bytearray(original)
    positions = st.integers(0, 60) | st.integers(0, len(data) - 1)
    for position in draw.draw(st.lists(positions, min_size=1, max_size=6)):
        data[position] = draw.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd TIFFs
        try:
            pixels = image.decode(data, max_pixels=LIMIT)
        except InvalidRequest:
            return
    assert pixels.shape[2] == 3
    size = image.read_size(data)
    assert size is not None
    assert size.width * size.height <= LIMIT


MAGICS = [
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"BM",
    b"RIFF",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
]


@fast
@given(st.sampled_from(MAGICS), st.binary(max_size=200))
def test_arbitrary_bytes_raise_invalid_request_at_most(magic: bytes, rest: bytes) -> None:
    image.read_size(rest)
    image.read_size(magic + rest)
    with pytest.raises(InvalidRequest):
        image.decode(magic + rest, max_pixels=LIMIT)


ASTRONAUT = skimage.data.astronaut()[:429, :510]


def turned(orientation: int, pixels: Array = ASTRONAUT, **options: object) -> bytes:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    return by_pillow(pixels, "JPEG", exif=exif, quality=92, **options)


def by_draft(data: bytes, size: tuple[int, int]) -> Array:
    """Decode with Pillow, reduced as far as the result is no smaller than (height, width)."""
    with PIL.Image.open(io.BytesIO(data)) as picture:
        picture.draft("RGB", (size[1], size[0]))
        return np.array(picture)


@pytest.mark.parametrize(
    ("least_size", "extent"),
    [
        (None, (429, 510)),
        ((215, 10), (429, 510)),
        ((10, 256), (429, 510)),
        ((214, 255), (214.5, 255)),
        ((107, 100), (107.25, 127.5)),
        ((53, 63), (53.625, 63.75)),
        ((1, 1), (53.625, 63.75)),
        ((1000, 1), (429, 510)),
    ],
)
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_jpeg_is_reduced_as_far_as_the_least_size_allows(
    least_size: tuple[int, int] | None, extent: tuple[float, float], options: dict[str, object]
) -> None:
    data = turned(1, **options)
    picture = image.decode_reduced(data, max_pixels=LIMIT, least_size=least_size)
    assert picture.extent == extent
    expected = by_draft(data, (int(extent[0]), int(extent[1])))
    np.testing.assert_allclose(picture.pixels.astype(int), expected, atol=2)
    assert picture.pixels.flags.c_contiguous


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_least_size_is_meant_upright(orientation: int) -> None:
    data = turned(orientation, ASTRONAUT[:424, :504])
    upright = (504, 424) if orientation >= 5 else (424, 504)
    for factor, least_size in ((2, (upright[0] // 2, 1)), (1, (upright[0] // 2 + 1, 1))):
        picture = image.decode_reduced(data, max_pixels=LIMIT, least_size=least_size)
        assert picture.extent == (upright[0] / factor, upright[1] / factor)
        stored = by_draft(data, (424 // factor, 504 // factor))
        with PIL.Image.fromarray(stored) as plain:
            plain.getexif()[0x0112] = orientation
            expected = np.asarray(PIL.ImageOps.exif_transpose(plain))
        np.testing.assert_allclose(picture.pixels.astype(int), expected, atol=2)


def test_a_part_of_a_pixel_is_never_turned_to_the_front() -> None:
    for height, width, extent in ((424, 500, (106, 125)), (424, 502, (212, 251)), (423, 504, None)):
        data = turned(3, ASTRONAUT[:height, :width])
        picture = image.decode_reduced(data, max_pixels=LIMIT, least_size=(8, 8))
        assert picture.extent == (extent or (height, width))


def test_only_a_jpeg_that_libjpeg_turns_to_rgb_is_reduced() -> None:
    cmyk = by_pillow(PIL.Image.fromarray(ASTRONAUT).convert("CMYK"), "JPEG")
    padded = turned(1)[:-2] + b"\x80" * 99 + b"\xff\xd9"
    for data in (cmyk, padded, by_pillow(ASTRONAUT, "PNG"), by_pillow(ASTRONAUT, "WEBP")):
        picture = image.decode_reduced(data, max_pixels=LIMIT, least_size=(1, 1))
        assert picture.extent == picture.pixels.shape[:2] == (429, 510)
        np.testing.assert_array_equal(picture.pixels, image.decode(data, max_pixels=LIMIT))


def test_a_reduced_image_is_refused_as_a_full_one_is() -> None:
    with pytest.raises(RequestTooLarge):
        image.decode_reduced(turned(1), max_pixels=429 * 510 - 1, least_size=(8, 8))
    for data in (turned(1)[:-99], turned(1, progressive=True)[:-99]):
        with pytest.raises(DecodeError):
            image.decode_reduced(data, max_pixels=LIMIT, least_size=(8, 8))


def test_pixels_that_fit_are_decoded_in_place() -> None:
    batch = np.zeros((2, 429, 510, 3), np.uint8)
    picture = image.decode_reduced(turned(1), max_pixels=LIMIT, out=batch[1])
    assert picture.pixels.base is batch
    np.testing.assert_array_equal(batch[1], image.decode(turned(1), max_pixels=LIMIT))
    assert not batch[0].any()


@pytest.mark.parametrize(
    ("orientation", "out"),
    [
        (1, np.zeros((510, 429, 3), np.uint8)),
        (1, np.zeros((429, 510, 3), np.float32)),
        (1, np.zeros((429, 510, 6), np.uint8)[:, :, ::2]),
        (3, np.zeros((429, 510, 3), np.uint8)),
    ],
)
def test_where_pixels_do_not_fit_nothing_is_written(orientation: int, out: Array) -> None:
    data = turned(orientation)
    picture = image.decode_reduced(data, max_pixels=LIMIT, out=out)
    np.testing.assert_array_equal(picture.pixels, image.decode(data, max_pixels=LIMIT))
    assert not out.any()


def test_decoding_leaves_the_interpreter_to_other_threads() -> None:
    """Threads that never take turns overlap only where they let go of the interpreter."""
    data = by_pillow(np.tile(ASTRONAUT, (6, 6, 1)), "JPEG")
    ready = Barrier(2)

    def decode() -> tuple[float, float]:
        ready.wait(10)
        start = perf_counter()
        image.decode(data, max_pixels=10 * LIMIT)
        return start, perf_counter()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(100)
    try:
        with ThreadPoolExecutor(2) as pool:
            first, second = sorted(job.result(60) for job in [pool.submit(decode) for _ in "ab"])
    finally:
        sys.setswitchinterval(interval)
    assert second[0] < first[1]
