"""Which requests a model takes, by what it has to do already.

A request is taken if its results can be expected well within its deadline, and refused at once
otherwise, before its images are decoded and mostly before its body is read. A queue that is as long
as the deadline has everybody wait for it, and a model that is asked for twice of what it can do
answers no more because of it.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple, NoReturn, Protocol

from rayserve_app.cost import Cost
from rayserve_app.errors import Overloaded
from rayserve_app.settings import ModelSettings

ADMITTED_SHARE: Final = 0.4
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

    def drain_s(self, coming: int) -> float: ...


class Work(NamedTuple):
    """What is to be done for a request."""

    items: int
    size_bytes: int = 0
    """Of its items as the model takes them."""
    images: int = 0
    """To be decoded."""
    pixels: int = 0
    """Of these images together."""


class Admission:
    """The work that a model has taken, and whether it takes more."""

    def __init__(
        self, name: str, settings: ModelSettings, batcher: Progress, decode_threads: int
    ) -> None:
        """Start without work."""
        self._name = name
        self._full_queue = f"The queue of model {name!r} is full"
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
        self._check(Work(1, 1), self._image_cost.usual_s, self._deadline_s)

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
        if seconds and work.images:
            self._image_cost.observe(work.pixels / work.images, seconds / work.images)

    def _check(self, work: Work, decode_s: float, timeout_s: float) -> None:
        if not self._items:  # however much it is: it will never be less
            return
        self._check_room(work)
        if self._batcher.is_free and self._decoding_items < self._decode_threads:
            return
        end_s = self._end_s(work.items, decode_s)
        allowed_s = ADMITTED_SHARE * timeout_s
        if end_s <= allowed_s:
            return
        batches_s = min(2 * self._batcher.shortest_s, (1 - LEAST_LEFT) * timeout_s)
        allowed_s = max(allowed_s, batches_s)
        if end_s > allowed_s:
            self._refuse(
                f"Model {self._name!r} has too much to do: {self._items} items, some {end_s:.2g} s",
                end_s - allowed_s,
            )

    def _check_room(self, work: Work) -> None:
        if self._items + work.items > self._most_items:
            self._refuse(f"{self._full_queue}: {self._items} of {self._most_items} items")
        if self._bytes and self._bytes + work.size_bytes > self._most_bytes:
            megabytes, most = self._bytes / 1e6, self._most_bytes / 1e6
            self._refuse(f"{self._full_queue}: {megabytes:g} of {most:g} MB")

    def _refuse(self, problem: str, surplus_s: float = 0.0) -> NoReturn:
        """Raise Overloaded, to be asked again when there is room; and when half of the work is
        done, so that not all who are refused now come back at once to be refused again."""
        ahead_s = self._end_s(0, 0.0)
        error = Overloaded(problem)
        error.retry_after_s = max(1, math.ceil(max(min(surplus_s, ahead_s), ahead_s / 2)))
        raise error

    def _end_s(self, items: int, decode_s: float) -> float:
        """Return the seconds until so many items more are expected to be decoded and predicted."""
        decoded_s = (self._decoding_s + decode_s) / self._decode_threads
        return decoded_s + self._batcher.drain_s(self._decoding_items + items)

    def _decode_s(self, work: Work) -> float:
        if not work.images:
            return 0.0
        return work.images * self._image_cost.of(work.pixels / work.images)
