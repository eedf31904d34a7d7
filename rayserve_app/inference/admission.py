"""Which requests a model takes, by what it has to do already.

A request is taken if its results can be expected well within its deadline, and refused at once
otherwise, before its images are decoded and mostly before its body is read. A queue that is as long
as the deadline has everybody wait for it, and a model that is asked for twice of what it can do
answers no more because of it.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple, Protocol

from rayserve_app.errors import Overloaded
from rayserve_app.inference.batch_cost import Cost
from rayserve_app.settings.model import ModelSettings

ADMITTED_SHARE: Final = 0.35
"""Of a request's deadline, what it may be expected to take. The slowest one in a hundred, for which
expectations were wrong, is then to be there at half of it."""

LEAST_LEFT: Final = 0.1
"""Of a deadline, what is to be left where batches take too long for that."""


class Progress(Protocol):
    """What a batcher tells of the work that it has."""

    @property
    def is_free(self) -> bool: ...

    @property
    def shortest_s(self) -> float: ...

    def end_s(self, coming: int) -> float: ...


class Work(NamedTuple):
    """What is to be done for a request."""

    items: int
    size_bytes: int = 0
    """Of its items as the model takes them."""
    images: int = 0
    """To be decoded."""
    pixels: int = 0
    """Of these images together."""


TYPICAL: Final = Work(1, 1)
"""What a request is taken to be before it is read."""


class Admission:
    """The work that a model has taken, and whether it takes more."""

    def __init__(
        self, name: str, settings: ModelSettings, batcher: Progress, decode_threads: int
    ) -> None:
        """Start without work."""
        self._name = name
        self._batcher = batcher
        self._decode_threads = decode_threads
        self._most_items = settings.max_queued_items
        self._most_bytes = int(settings.limits.max_queued_mb * 1e6)
        self._deadline_s = settings.deadline.latency_ms / 1e3
        self._items = 0
        self._bytes = 0
        self._decoding_items = 0
        self._decoding_s = 0.0
        self._image_cost = Cost()
        """What it takes to decode one, by its pixels."""

    def check(self) -> None:
        """Raise Overloaded if a request like others were refused now."""
        self._check(TYPICAL, self._image_cost.usual_s, self._deadline_s)

    def begin(self, work: Work, timeout_s: float) -> None:
        """Take a request, of whose deadline so much is left, or raise Overloaded."""
        self._check(work, self._decode_s(work), timeout_s)
        self._items += work.items
        self._bytes += work.size_bytes

    def end(self, work: Work) -> None:
        """Let go of a request that was taken."""
        self._items -= work.items
        self._bytes -= work.size_bytes

    def begin_decoding(self, work: Work) -> float:
        """Count images in that are to be decoded now; return the seconds of a thread that they are
        expected to take."""
        seconds = self._decode_s(work)
        self._decoding_items += work.items
        self._decoding_s += seconds
        return seconds

    def end_decoding(self, work: Work, expected_s: float, seconds: float) -> None:
        """Count them out, and learn from what they took; nothing if that is 0."""
        self._decoding_items -= work.items
        self._decoding_s -= expected_s
        if seconds and work.pixels:
            self._image_cost.observe(work.pixels / work.images, seconds / work.images)

    def _check(self, work: Work, decode_s: float, timeout_s: float) -> None:
        self._check_room(work)
        if not self._items:  # however long it takes: there will never be less to do
            return
        if self._batcher.is_free and self._decoding_items < self._decode_threads:
            return
        end_s = self._end_s(work.items, decode_s)
        allowed_s = ADMITTED_SHARE * timeout_s
        if end_s <= allowed_s:
            return
        batches_s = min(2 * self._batcher.shortest_s, (1 - LEAST_LEFT) * timeout_s)
        allowed_s = max(allowed_s, batches_s)
        if end_s > allowed_s:
            raise self._refusal(
                f"Model {self._name!r} has too much to do: {self._items} items, some {end_s:.2g} s",
                (end_s - allowed_s) / (self._end_s(0, 0.0) or 1.0),
            )

    def _check_room(self, work: Work) -> None:
        items, most = self._items, self._most_items
        if items + work.items > most:
            raise self._refusal(
                f"The queue of model {self._name!r} is full: {items} of {most} items",
                (items + work.items - most) / (items or 1),
            )
        size, most = self._bytes, self._most_bytes
        if size and size + work.size_bytes > most:
            raise self._refusal(
                f"The queue of model {self._name!r} is full: {size / 1e6:g} of {most / 1e6:g} MB",
                (size + work.size_bytes - most) / size,
            )

    def _refusal(self, problem: str, surplus: float) -> Overloaded:
        """Return the error of a request for which so much of what there is to do must be done
        first. It says to come again then, and not before half of it is done, or all who are refused
        now would come back at once to be refused again."""
        error = Overloaded(problem)
        share = min(max(surplus, 0.5), 1.0)
        error.retry_after_s = max(1, math.ceil(share * self._end_s(0, 0.0)))
        return error

    def _end_s(self, items: int, decode_s: float) -> float:
        """Return the seconds until so many items more are expected to be decoded and predicted."""
        decoded_s = (self._decoding_s + decode_s) / self._decode_threads
        return decoded_s + self._batcher.end_s(self._decoding_items + items)

    def _decode_s(self, work: Work) -> float:
        if not work.images:
            return 0.0
        return work.images * self._image_cost.of(work.pixels / work.images)
