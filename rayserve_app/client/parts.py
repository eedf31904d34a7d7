"""Long lists cut into requests: packed streams, stacked arrays, or one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from rayserve_app.client.description import Description
from rayserve_app.client.images import Element, npy_bytes
from rayserve_app.codecs import packed_jpeg
from rayserve_app.errors import RequestTooLarge
from rayserve_app.types import Array

FULL_BATCHES = 4
"""Of the model's batches in one request: enough that the next is there when one is done, and few
enough for the deadline, which holds for the request as a whole."""

NPY_HEADER_BYTES = 256
LENGTH_BYTES = 4


class Bounds(NamedTuple):
    """The most of one request."""

    items: int
    body_bytes: int
    pixels: int

    @classmethod
    def of(cls, description: Description, max_items: int | None = None) -> Bounds:
        """Return the bounds of a model, with fewer items where the caller says so."""
        items = max_items or FULL_BATCHES * description.max_batch_size
        return cls(
            min(items, description.max_items),
            description.max_body_bytes,
            description.max_request_pixels,
        )


class Part(NamedTuple):
    """One request of a prediction: the items from `start` up to `stop`."""

    start: int
    stop: int
    body: bytes
    content_type: str
    is_batch: bool
    """Whether the body holds a batch, so that its answer is one, if only of one item."""

    @property
    def item_count(self) -> int:
        return self.stop - self.start


def check_size(element: Element, bounds: Bounds) -> Element:
    """Return the element, or raise RequestTooLarge if it alone is larger than a body may be."""
    if _body_bytes(element) > bounds.body_bytes:
        raise RequestTooLarge(
            "The image is too large",
            expected=f"at most {bounds.body_bytes} bytes",
            got=str(element.size),
        )
    return element


def cut(elements: Iterable[Element], bounds: Bounds) -> Iterator[list[Element]]:
    """Group neighbours that may travel together, as many as the bounds allow; lazy, so that no more
    than one element is taken ahead."""
    group: list[Element] = []
    size = pixels = 0
    for element in elements:
        needed = _body_bytes(element)
        fits = (
            element.kind is not None
            and len(group) < bounds.items
            and size + needed <= bounds.body_bytes
            and pixels + element.pixels <= bounds.pixels
        )
        if group and not (fits and element.kind == group[0].kind):
            yield group
            group, size, pixels = [], 0, 0
        group.append(element)
        size += needed
        pixels += element.pixels
    if group:
        yield group


def join(group: Sequence[Element], start: int) -> Part:
    """Return the request that carries a group, whose first item is number `start`."""
    first = group[0]
    stop = start + len(group)
    if first.content_type == packed_jpeg.MEDIA_TYPE:
        stream = packed_jpeg.encode(_bytes_of(each) for each in group)
        return Part(start, stop, stream, packed_jpeg.MEDIA_TYPE, is_batch=True)
    if not isinstance(first.data, np.ndarray):
        return Part(start, stop, first.data, first.content_type, is_batch=False)
    if first.kind is None:
        return Part(start, stop, npy_bytes(first.data), first.content_type, is_batch=False)
    stacked = np.stack([_array_of(each) for each in group])
    return Part(start, stop, npy_bytes(stacked), first.content_type, is_batch=True)


def _body_bytes(element: Element) -> int:
    if element.content_type == packed_jpeg.MEDIA_TYPE:
        return LENGTH_BYTES + element.size
    if isinstance(element.data, np.ndarray):
        # More than once for many arrays in one body: too much by some bytes, never too little.
        return NPY_HEADER_BYTES + element.size
    return element.size


def _bytes_of(element: Element) -> bytes:
    assert isinstance(element.data, bytes)
    return element.data


def _array_of(element: Element) -> Array:
    assert isinstance(element.data, np.ndarray)
    return element.data
