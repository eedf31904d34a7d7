"""Encoded images: JPEG, PNG, WebP, GIF, BMP and TIFF to RGB pixels.

JPEG goes through simplejpeg, the fastest measured, which refuses whatever libjpeg warns of; what it
refuses, CMYK and all other formats go through Pillow; both release the GIL. Pillow's plug-ins are
called by name, so that no other format is ever tried. Run-length encoded BMPs, which it decodes in
Python, are OpenCV's if they are large. So what is shown is what Pillow shows with its defaults.
Only JPEG can be decoded at a reduced size, from fewer coefficients of each 8 x 8 block.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.Image import DecompressionBombError, DecompressionBombWarning, Exif, Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from rayserve_app.codecs import image_header
from rayserve_app.codecs.image_header import Format, Header
from rayserve_app.errors import DecodeError, RequestTooLarge
from rayserve_app.types import Array, Buffer

_FORMATS = "JPEG, PNG, WebP, GIF, BMP or TIFF"


class _Jpeg(JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Nothing. Pillow would read all of Exif, whose values may overlap and fill the memory."""


_PLUGINS: dict[Format, Callable[[io.BytesIO], ImageFile]] = {
    "JPEG": _Jpeg,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
}
_BITS_PER_SAMPLE, _PHOTOMETRIC, _ORIENTATION = 258, 262, 274

_BMP_RLE = (BmpImageFile.COMPRESSIONS["RLE8"], BmpImageFile.COMPRESSIONS["RLE4"])
# Pillow decodes these in Python, a tenth of a second for so many bytes.
_MAX_BMP_RLE_BYTES = 1 << 17
# Else OpenCV, once it is imported, writes a line for each damaged image.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
_EXIF_PROFILE = "Raw profile type exif"
# Each scan of a progressive JPEG passes over the whole image, and takes as few as 15 bytes.
_MAX_JPEG_SCANS = 64
# libjpeg has all eighths, but only these are faster than to decode in full.
_REDUCTIONS: Final = (8, 4, 2)


class ImageSize(NamedTuple):
    """Pixels as stored, before any Exif orientation."""

    width: int
    height: int


class Picture(NamedTuple):
    """A decoded image.

    `pixels` are (H, W, 3) uint8, RGB, 0-255, upright. `extent` is the height and width of the
    image in these pixels: 427 rows decoded at half their size are 213.5, in 214 rows of pixels of
    which the last is half beyond the image's edge.
    """

    pixels: Array
    extent: tuple[float, float]


def read_size(data: Buffer) -> ImageSize | None:
    """Return the size from the header alone, in microseconds.

    Returns:
        None if the data is no image of a known format, or its header is damaged.
    """
    header = image_header.read(data)
    return None if header is None else ImageSize(header.width, header.height)


def check_size(data: Buffer, *, max_pixels: int) -> ImageSize | None:
    """Return `read_size(data)`, refusing what is too large.

    Raises:
        RequestTooLarge: More than `max_pixels` pixels.
    """
    size = read_size(data)
    if size is not None:
        _refuse_too_large(size, max_pixels)
    return size


def decode(data: Buffer, *, max_pixels: int) -> Array:
    """Decode one image: the first frame of an animation, the first page of a TIFF.

    Returns:
        (H, W, 3) uint8, RGB, 0-255, turned upright as its Exif orientation says. Grey is
        repeated, alpha is dropped (not composited), palettes and CMYK are converted, 12 and 16
        bits keep their upper 8, floats and 32-bit integers are clipped to 0-255 and lose their
        fraction, 1 bit becomes 0 or 255.

    Raises:
        DecodeError: No image of a known format, truncated (but behind its last row), or damaged.
        RequestTooLarge: More than `max_pixels` pixels, nothing has been decoded; or a TIFF, GIF
            or WebP beyond twice Pillow's own MAX_IMAGE_PIXELS.
    """
    return decode_reduced(data, max_pixels=max_pixels).pixels


def decode_reduced(
    data: Buffer,
    *,
    max_pixels: int,
    least_size: tuple[int, int] | None = None,
    out: Array | None = None,
) -> Picture:
    """Decode as `decode` does, a JPEG at a half, a quarter or an eighth of its size where that
    leaves it at least `least_size`, (height, width). One to be turned is reduced only where its
    sides divide. `out` takes the pixels, (height, width, 3) uint8, if it has their size.

    Accuracy: the eight photographs of scikit-image and scikit-learn at quality 92, reduced to at
    least twice the size that `Preprocessing` then resizes them to by area, differ from those
    decoded in full by 0.5 of 255 on average; the worst image and size by 2.5 on average and by 15
    at the 99th percentile. Pillow's and OpenCV's own resizing differ by as much.

    Args:
        least_size: height and width, upright; None for the full size.
        out: where to put the pixels if they fit exactly, uint8, and need no turning; then they are
            `out` itself.
    Raises:
        DecodeError, RequestTooLarge: as `decode` does.
    """
    header = image_header.read(data)
    if header is None:
        raise DecodeError(
            "not an image, or its header is damaged",
            expected=_FORMATS,
            got=f"{len(data)} bytes that start with {bytes(data[:8])!r}",
        )
    _refuse_too_large(ImageSize(header.width, header.height), max_pixels)
    try:
        if header.format == "JPEG":
            return _decode_jpeg(data, header, least_size, out, max_pixels)
        if header.format == "PNG":
            pixels = _decode_png(data, header, max_pixels)
        else:
            pixels = _decode_with_pillow(data, header, max_pixels)
        return Picture(pixels, pixels.shape[:2])
    except (DecodeError, RequestTooLarge):
        raise
    except (DecompressionBombError, DecompressionBombWarning) as exc:
        raise RequestTooLarge(f"the image is too large for its decoder: {exc}") from exc
    except Exception as exc:  # what damaged files raise is no part of the libraries' contracts
        raise DecodeError(f"the {header.format} image cannot be decoded: {exc}") from exc


def _refuse_too_large(size: ImageSize, max_pixels: int) -> None:
    pixels = size.width * size.height
    if pixels > max_pixels:
        raise RequestTooLarge(
            "the image is too large",
            expected=f"at most {max_pixels} pixels",
            got=f"{size.width} x {size.height} = {pixels}",
        )


def _decode_jpeg(
    data: Buffer,
    header: Header,
    least_size: tuple[int, int] | None,
    out: Array | None,
    max_pixels: int,
) -> Picture:
    if header.progressive:
        _refuse_many_scans(data)
    is_turned = header.orientation >= 5
    size = (header.width, header.height) if is_turned else (header.height, header.width)
    reduction = 1 if least_size is None else _reduction(size, least_size, header.orientation)
    pixels = None
    if header.components != 4:  # CMYK or YCCK, which libjpeg does not convert to RGB
        pixels = _decode_jpeg_to_rgb(data, header, reduction, out)
    if pixels is None:
        if not image_header.has_short_head(data):
            raise DecodeError("the JPEG image has too much before its first scan")
        _refuse_many_scans(data)
        pixels, reduction = _decode_with_pillow(data, header, max_pixels), 1
    extent = (size[0] / reduction, size[1] / reduction)
    return Picture(_orient(pixels, header.orientation), extent)


def _refuse_many_scans(data: Buffer) -> None:
    if bytes(data).count(b"\xff\xda") > _MAX_JPEG_SCANS:
        raise DecodeError(
            "the JPEG image has too many scans", expected=f"at most {_MAX_JPEG_SCANS}"
        )


def _reduction(size: tuple[int, int], least_size: tuple[int, int], orientation: int) -> int:
    most = min(size[0] / least_size[0], size[1] / least_size[1])
    for reduction in _REDUCTIONS:
        # Turning would bring pixels that lie beyond the edge in part to the front.
        is_whole = size[0] % reduction == size[1] % reduction == 0
        if reduction <= most and (is_whole or orientation <= 1):
            return reduction
    return 1


def _decode_jpeg_to_rgb(
    data: Buffer, header: Header, reduction: int, out: Array | None
) -> Array | None:
    """Return the pixels as stored; None if Pillow has to try: libjpeg has warned of something, or
    it is of a subsampling that TurboJPEG does not know."""
    height, width = -(-header.height // reduction), -(-header.width // reduction)
    shape = (height, width, 3)
    if out is None or header.orientation > 1 or not _fits(out, shape):
        out = np.empty(shape, np.uint8)
    try:
        pixels = simplejpeg.decode_jpeg(
            data,
            "RGB",
            min_height=height,
            min_width=width,
            min_factor=reduction,
            buffer=out,
            strict=True,
        )
    except ValueError:
        return None
    if pixels.shape != shape:  # what was not written is somebody else's memory
        raise DecodeError("the JPEG image is not of the size that its header states")
    return out


def _fits(out: Array, shape: tuple[int, ...]) -> bool:
    return out.shape == shape and out.dtype == np.uint8 and out.flags.c_contiguous


def _decode_png(data: Buffer, header: Header, max_pixels: int) -> Array:
    if not image_header.has_few_chunks(data):
        raise DecodeError("the PNG image is in too many chunks")
    try:
        return _decode_with_pillow(data, header, max_pixels)
    except (SyntaxError, ValueError):  # of a chunk, maybe of one that does not matter
        return _decode_with_pillow(image_header.critical_chunks(data), header, max_pixels)


def _decode_run_lengths(data: Buffer, header: Header) -> Array:
    import cv2  # 40 MB that hardly any image needs

    pixels: Array | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if pixels is None or pixels.shape != (header.height, header.width, 3):
        raise DecodeError("the run-length encoded BMP image is damaged")
    return pixels


def _decode_with_pillow(data: Buffer, header: Header, max_pixels: int) -> Array:
    with _PLUGINS[header.format](io.BytesIO(data)) as image:
        # A second header further on may state another size.
        _refuse_too_large(ImageSize(*image.size), max_pixels)
        is_encoded = header.format == "BMP" and image.info.get("compression") in _BMP_RLE
        if is_encoded and len(data) > _MAX_BMP_RLE_BYTES:
            return _decode_run_lengths(data, header)
        if header.format == "TIFF":
            # Else Pillow reads all Exif directories, whose values may overlap and fill the memory.
            image.info["exif"] = _exif_of(header)
        image.load()
        pixels = _to_rgb(image)
        # A TIFF Pillow has turned upright itself, and a JPEG's header is known.
        is_stored = header.format not in ("TIFF", "JPEG")
        return _orient(pixels, _orientation_of(image)) if is_stored else pixels


def _exif_of(header: Header) -> bytes:
    exif = Exif()
    if header.orientation:
        exif[_ORIENTATION] = header.orientation
    return exif.tobytes()


def _orientation_of(image: Image) -> int:
    """Return the orientation that a file states in Exif, ImageMagick's form of it, or XMP."""
    exif = image.info.get("exif")
    if exif is None and (profile := image.info.get(_EXIF_PROFILE)):
        exif = bytes.fromhex("".join(profile.split("\n")[3:]))
    xmp = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or b""
    return image_header.read_orientation(exif or b"", xmp.encode() if isinstance(xmp, str) else xmp)


def _to_rgb(image: Image) -> Array:
    if image.mode.startswith("I;16"):
        tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
        (bits, *_) = tags.get(_BITS_PER_SAMPLE, (16,))
        grey = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
        if tags.get(_PHOTOMETRIC) == 0:
            grey = 255 - grey  # "white is zero", which Pillow inverts in 8 bits only
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "RGBa":  # premultiplied: Pillow converts it to RGBA only
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def _orient(pixels: Array, orientation: int) -> Array:
    """Turn pixels upright. Source: Exif 2.32, tag 274; 0 where none is stated."""
    if orientation <= 1:
        return pixels
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
