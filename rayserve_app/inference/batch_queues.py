"""What waits for a batch: by bucket, and in each bucket in the order of the deadlines."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort_right
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from operator import attrgetter
from typing import Any, Final, Generic, Protocol, TypeVar

from rayserve_app.inference.batch_pace import Pace

MOST_PACES: Final = 64
"""Buckets whose pace is remembered while nothing of them waits: clients choose shapes."""


class Waiting(Protocol):
    """An entry of a queue; times are those of `time.perf_counter`."""

    bucket: Hashable
    deadline: float
    queued_at: float


EntryT = TypeVar("EntryT", bound=Waiting)

_deadline: Callable[[Any], float] = attrgetter("deadline")
_queued_at: Callable[[Any], float] = attrgetter("queued_at")


class Queue(Generic[EntryT]):
    """The entries of one bucket, the earliest deadline first."""

    __slots__ = ("bucket", "entries", "pace")

    def __init__(self, bucket: Hashable, pace: Pace) -> None:
        self.bucket = bucket
        self.pace = pace
        self.entries: list[EntryT] = []

    def batch_end(self, now: float) -> float:
        """Return when a batch that starts now is expected to have its results."""
        return now + self.pace.expected_s(min(len(self.entries), self.pace.limit))

    def due_at(self, wait_s: float, now: float) -> float:
        """Return when a batch need not wait for more items: at once if it is full, when its oldest
        entry has waited, or when its first might become late. That one keeps half of its time at
        least, and twice what a batch takes."""
        entries = self.entries
        if len(entries) >= self.pace.limit:
            return now
        first = entries[0]
        kept_s = max(2 * self.pace.usual_s, (first.deadline - first.queued_at) / 2)
        return min(min(map(_queued_at, entries)) + wait_s, first.deadline - kept_s)


class Queues(Generic[EntryT]):
    """The queues of one model. Entries mostly arrive in the order of their deadlines, and then
    each is one append to a list."""

    def __init__(self, create_pace: Callable[[], Pace], wait_s: float) -> None:
        """Keep the settings.

        Args:
            create_pace: called for each new bucket.
            wait_s: how long a batch that is not full waits for more items.
        """
        self._create_pace = create_pace
        self._wait_s = wait_s
        self._overall = create_pace()
        """What is learned of the batches of all buckets, for items of which no more is known. Its
        limit is that of the last one."""
        self._waiting: dict[Hashable, Queue[EntryT]] = {}
        self._known: OrderedDict[Hashable, Queue[EntryT]] = OrderedDict()

    def __len__(self) -> int:
        return sum(len(queue.entries) for queue in self._waiting.values())

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, entry: EntryT) -> None:
        """Put an entry in its place: behind those whose deadline is no later."""
        queue = self._waiting.get(entry.bucket)
        if queue is None:
            queue = self._waiting[entry.bucket] = self._queue_for(entry.bucket)
        entries = queue.entries
        if not entries or entries[-1].deadline <= entry.deadline:
            entries.append(entry)
        else:
            insort_right(entries, entry, key=_deadline)

    def remove(self, entries: Sequence[EntryT]) -> None:
        """Take out those of one request, which share a deadline, that still wait."""
        gone = set(entries)
        deadline = entries[0].deadline
        for bucket in {entry.bucket for entry in entries}:
            queue = self._waiting.get(bucket)
            if queue is None:
                continue
            start = bisect_left(queue.entries, deadline, key=_deadline)
            stop = bisect_right(queue.entries, deadline, key=_deadline)
            queue.entries[start:stop] = [e for e in queue.entries[start:stop] if e not in gone]
            if not queue.entries:
                del self._waiting[bucket]

    def late(self, now: float) -> list[EntryT]:
        """Return the entries whose batch, started now, is expected to end after their deadline.

        If nothing could be answered in time, then only those whose deadline has passed: a batch
        that may be late is better than none, and shows whether the expectation still holds.
        """
        queues = self._waiting.values()
        for queue in queues:
            if queue.entries[0].deadline < now + queue.pace.usual_s:
                break
        else:
            return []
        ends = [(queue.entries, queue.batch_end(now)) for queue in queues]
        if not any(entries[-1].deadline >= end for entries, end in ends):
            ends = [(entries, now) for entries, _ in ends]
        return [
            entry
            for entries, end in ends
            for entry in entries[: bisect_left(entries, end, key=_deadline)]
        ]

    def next(self, now: float) -> tuple[Queue[EntryT], float]:
        """Return the queue to serve next, and when it is due; of several that are due, the one of
        the earliest deadline."""
        queues = list(self._waiting.values())
        due_at = now
        if self._wait_s:
            due = [(queue.due_at(self._wait_s, now), queue) for queue in queues]
            due_at = max(now, min(at for at, _ in due))
            queues = [queue for at, queue in due if at <= due_at]
        if len(queues) == 1:
            return queues[0], due_at
        return min(queues, key=lambda queue: queue.entries[0].deadline), due_at

    def observe(self, pace: Pace, size: int, seconds: float) -> None:
        """Learn from a batch of so many items of one bucket."""
        pace.observe(size, seconds)
        self._overall.limit = pace.limit
        self._overall.cost.observe(size, seconds)

    def forecast(self, coming: int) -> tuple[float, float]:
        """Return what is expected of the last of what waits and of so many items more: the seconds
        of the batches before its own, and of its own, which is as long as usual at least, for
        others will come meanwhile and join it."""
        waiting = self._waiting
        pace, count, ahead_s = self._overall, coming, 0.0
        if len(waiting) == 1:
            (queue,) = waiting.values()
            pace, count = queue.pace, coming + len(queue.entries)
        else:
            for queue in waiting.values():
                ahead_s += queue.pace.cost.of_batches(len(queue.entries), queue.pace.limit)
        if not count:
            return ahead_s, 0.0
        cost = pace.cost
        batches, others = divmod(count - 1, pace.limit)
        own_s = cost.of(others + 1) if batches else cost.of_next(others + 1)
        return ahead_s + batches * cost.of(pace.limit), max(own_s, cost.usual_s)

    @property
    def shortest_s(self) -> float:
        """Seconds of the smallest batches that are worthwhile beside full ones."""
        return self._overall.cost.shortest_s(self._overall.limit)

    def take(self, queue: Queue[EntryT]) -> list[EntryT]:
        """Take the first entries of a queue, as many as make a batch."""
        entries = queue.entries
        count = queue.pace.limit
        if count >= len(entries):
            queue.entries = []
            del self._waiting[queue.bucket]
            return entries
        taken = entries[:count]
        del entries[:count]
        return taken

    def _queue_for(self, bucket: Hashable) -> Queue[EntryT]:
        queue = self._known.get(bucket)
        if queue is not None:
            self._known.move_to_end(bucket)
            return queue
        if len(self._known) >= MOST_PACES:
            self._known.popitem(last=False)
        pace = self._create_pace()
        pace.cost = self._overall.cost.guess()
        queue = self._known[bucket] = Queue(bucket, pace)
        return queue
