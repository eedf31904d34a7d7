"""An item's content: its bytes, counted and hashed.

The hash is SHA-256: whoever could make two items of one hash could choose what others are answered,
and servers' processors compute it in hardware, nearly twice as fast as BLAKE2b in software.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from rayserve_app.codecs import image
from rayserve_app.codecs.json_metadata import EncodedImage
from rayserve_app.inference.admission import Work
from rayserve_app.payloads.inputs import Inputs
from rayserve_app.payloads.items import Encoded
from rayserve_app.types import Array, Invocation

Update: TypeAlias = Callable[[Any], None]


def size_bytes(value: Any) -> int:
    """Return the bytes of an item: of its buffers, strings and arrays, in whatever collection."""
    if isinstance(value, bytes | str | bytearray):
        return len(value)
    if isinstance(value, np.ndarray | memoryview):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(size_bytes, value.values()))
    return sum(map(size_bytes, value)) if isinstance(value, tuple | list) else 0


def items_bytes(inputs: Inputs, items: Sequence[Encoded]) -> int:
    """Return the bytes of a request's items as a model takes them: of images, once decoded."""
    if not inputs.needs_decoding:
        return sum(map(size_bytes, items))
    pixel_bytes = inputs.preprocess.dtype.itemsize * (1 if inputs.settings.color == "gray" else 3)
    own_size = inputs.settings.size
    total = 0
    for item in items:
        if isinstance(item, EncodedImage):
            total += math.prod(own_size or image.read_size(item.data) or (0,)) * pixel_bytes
        else:
            total += size_bytes(item)
    return total


def work_of(inputs: Inputs, items: Sequence[Encoded]) -> Work:
    """Return what is to be done for a request's items."""
    count, size = len(items), items_bytes(inputs, items)
    if not inputs.needs_decoding:
        return Work(count, size)
    images = [item.data for item in items if isinstance(item, EncodedImage)]
    return Work(
        count, size, len(images), sum(math.prod(image.read_size(data) or (0,)) for data in images)
    )


def digest(value: Any) -> bytes | None:
    """Return the hash of an item, which only equal items share; None for one that holds anything
    but buffers, strings, numbers, arrays, and collections of these."""
    content = hashlib.sha256()
    try:
        _update(content.update, value)
    except (TypeError, RecursionError):
        return None
    return content.digest()


def _update(update: Update, value: Any) -> None:
    """Hash a value with its type and length, so that no two values are one sequence of bytes."""
    if isinstance(value, str):
        encoded = value.encode(errors="surrogatepass")
        update(b"str %d " % len(encoded))
        update(encoded)
    elif isinstance(value, bytes | bytearray | memoryview):
        update(b"bytes %d " % memoryview(value).nbytes)
        update(value)
    elif isinstance(value, np.ndarray):
        _update_array(update, value)
    elif isinstance(value, Mapping):
        update(b"mapping %d " % len(value))
        for key in sorted(value):
            _update(update, key)
            _update(update, value[key])
    elif isinstance(value, Invocation):
        _update(update, value[:4])  # without headers, which tell each request from all others
    elif isinstance(value, tuple | list):
        update(b"sequence %d " % len(value))
        for element in value:
            _update(update, element)
    elif isinstance(value, float):
        update(b"float %b " % value.hex().encode())
    elif isinstance(value, int):  # True too, which is no 1 to a model
        update(b"%b %x " % (type(value).__name__.encode(), value))
    elif value is None:
        update(b"none ")
    else:
        raise TypeError(type(value).__name__)


def _update_array(update: Update, array: Array) -> None:
    update(f"array {array.dtype} {array.shape} ".encode())
    if array.dtype.hasobject:
        for element in array.flat:
            _update(update, element)
    else:
        # As bytes, for not every type of number can be a buffer.
        update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
