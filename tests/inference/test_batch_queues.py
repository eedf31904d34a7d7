"""What waits for a batch: the order of deadlines, what is late, when a batch is due."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rayserve_app.inference.batch_pace import Pace
from rayserve_app.inference.batch_queues import MOST_PACES, Queues


@dataclass(eq=False)
class Entry:
    deadline: float
    bucket: Any = None
    queued_at: float = 0.0


def create_queues(
    max_batch_size: int = 4, *, wait_s: float = 0.0, batch_s: float = 0.0
) -> Queues[Entry]:
    """Return queues whose batches are known to take `batch_s`."""

    def create_pace() -> Pace:
        pace = Pace(max_batch_size)
        if batch_s:
            pace.observe(max_batch_size, batch_s)
        return pace

    return Queues(create_pace, wait_s)


def add(queues: Queues[Entry], *entries: Entry) -> None:
    for entry in entries:
        queues.add(entry)


def deadlines(entries: list[Entry]) -> list[float]:
    return [entry.deadline for entry in entries]


def drain(queues: Queues[Entry]) -> list[list[Entry]]:
    batches = []
    while queues:
        batches.append(queues.take(queues.next(0.0)[0]))
    return batches


def test_the_earliest_deadline_goes_first_and_equals_in_the_order_of_arrival() -> None:
    queues = create_queues(max_batch_size=3)
    entries = [Entry(5.0), Entry(7.0), Entry(5.0), Entry(3.0), Entry(5.0)]
    add(queues, *entries)
    first, second = drain(queues)
    assert [entries.index(entry) for entry in first + second] == [3, 0, 2, 4, 1]


def test_the_bucket_of_the_earliest_deadline_goes_first() -> None:
    queues = create_queues(max_batch_size=2)
    add(queues, *[Entry(5.0, "a") for _ in range(5)], Entry(6.0, "b"), Entry(4.0, "c"))
    assert [batch[0].bucket for batch in drain(queues)] == ["c", "a", "a", "a", "b"]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(1, 4)), max_size=20),
    st.sets(st.integers(0, 19)),
)
def test_what_is_taken_out_is_gone_and_the_rest_is_in_order(
    requests: list[tuple[int, int, int]], cancelled: set[int]
) -> None:
    queues = create_queues()
    groups = []
    for deadline, bucket, count in requests:
        groups.append([Entry(float(deadline), (bucket + i) % 3) for i in range(count)])
        add(queues, *groups[-1])
    for index in cancelled & set(range(len(groups))):
        queues.remove(groups[index])
        queues.remove(groups[index])
    left = [e for i, group in enumerate(groups) if i not in cancelled for e in group]
    assert len(queues) == len(left)
    batches = drain(queues)
    for bucket in range(3):
        taken = [e for batch in batches for e in batch if batch[0].bucket == bucket]
        expected = sorted((e for e in left if e.bucket == bucket), key=lambda e: e.deadline)
        assert taken == expected
    assert all(len({entry.bucket for entry in batch}) == 1 for batch in batches)


def test_late_is_what_no_batch_can_answer_in_time() -> None:
    queues = create_queues(batch_s=3.0)
    add(queues, *map(Entry, (1.0, 2.9, 3.1, 5.0)))
    assert deadlines(queues.late(0.0)) == [1.0, 2.9]
    assert deadlines(queues.late(1.0)) == [1.0, 2.9, 3.1]


def test_where_nothing_can_be_answered_in_time_only_what_has_passed_is_late() -> None:
    queues = create_queues(batch_s=30.0)
    add(queues, *map(Entry, (1.0, 2.0, 3.0)))
    assert queues.late(0.5) == []
    assert deadlines(queues.late(2.5)) == [1.0, 2.0]
    assert deadlines(queues.late(9.0)) == [1.0, 2.0, 3.0]


def test_a_bucket_that_is_late_makes_room_for_one_that_is_not() -> None:
    queues = create_queues(batch_s=3.0)
    add(queues, *[Entry(2.0, "a") for _ in range(4)], *[Entry(9.0, "b") for _ in range(4)])
    assert deadlines(queues.late(0.0)) == [2.0] * 4


def test_nothing_is_late_before_anything_is_known() -> None:
    queues = create_queues()
    add(queues, Entry(1.0), Entry(9.0))
    assert queues.late(0.99) == []


def answered_under_overload(drop_late: Callable[[Queues[Entry], float], list[Entry]]) -> float:
    """Return the share of a model's capacity that is answered in time where twice as much comes:
    batches of 8 take 40 ms, 400 items come in a second, deadlines are 200 ms."""
    queues = create_queues(max_batch_size=8, batch_s=0.04)
    answered, now, arrived = 0, 0.0, 0
    while now < 10:
        while arrived / 400 <= now:
            queues.add(Entry(arrived / 400 + 0.2, queued_at=arrived / 400))
            arrived += 1
        for entry in drop_late(queues, now):
            queues.remove([entry])
        queue, _ = queues.next(now)
        batch = queues.take(queue)
        now += 0.04
        answered += sum(entry.deadline >= now for entry in batch)
    return answered / (10 / 0.04 * 8)


def test_a_model_under_twice_its_load_answers_as_much_as_it_can() -> None:
    def only_passed(queues: Queues[Entry], now: float) -> list[Entry]:
        return [e for e in queues.next(now)[0].entries if e.deadline < now]

    assert answered_under_overload(Queues.late) > 0.95
    assert answered_under_overload(only_passed) < 0.2


def test_a_batch_is_due_when_it_is_full_or_its_oldest_has_waited() -> None:
    queues = create_queues(max_batch_size=3, wait_s=1.0)
    add(queues, Entry(99.0, queued_at=10.0), Entry(98.0, queued_at=10.4))
    assert queues.next(10.5)[1] == 11.0
    assert queues.next(11.5)[1] == 11.5
    add(queues, Entry(100.0, queued_at=10.6))
    assert queues.next(10.7)[1] == 10.7


def test_a_batch_does_not_wait_until_its_first_might_be_late() -> None:
    queues = create_queues(wait_s=5.0, batch_s=0.4)
    add(queues, Entry(11.0, queued_at=10.0), Entry(20.0, queued_at=10.0))
    assert queues.next(10.0)[1] == 11.0 - 2 * 0.4
    queues = create_queues(wait_s=5.0)
    add(queues, Entry(11.0, queued_at=10.0))
    assert queues.next(10.0)[1] == 10.5


def test_of_several_batches_that_are_due_the_earliest_deadline_goes_first() -> None:
    queues = create_queues(max_batch_size=2, wait_s=1.0)
    add(queues, Entry(50.0, "waits", 10.0))
    add(queues, *[Entry(90.0, "full", 10.0) for _ in range(2)])
    assert queues.next(10.5)[0].bucket == "full"
    assert queues.next(11.5)[0].bucket == "waits"


def test_the_pace_of_a_bucket_outlives_its_entries_but_not_that_of_any_number() -> None:
    queues = create_queues()
    entry = Entry(1.0, "a")
    queues.add(entry)
    pace = queues.next(0.0)[0].pace
    for bucket in range(MOST_PACES - 1):
        queues.remove([entry])
        queues.add(other := Entry(1.0, bucket))
        queues.remove([other])
        queues.add(entry)
        assert queues.next(0.0)[0].pace is pace
    queues.remove([entry])
    for bucket in range(MOST_PACES):
        queues.add(other := Entry(1.0, -1 - bucket))
        queues.remove([other])
    queues.add(entry)
    assert queues.next(0.0)[0].pace is not pace
