"""Which requests are taken, against a batcher whose work is known."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from rayserve_app.errors import Overloaded
from rayserve_app.inference.admission import Admission, Work
from rayserve_app.settings.model import ModelSettings

DEADLINE_S = 10.0


class Batcher:
    """One that has some items to do, each of which takes so long."""

    def __init__(self, item_s: float, shortest_s: float = 0.0) -> None:
        self.item_s = item_s
        self.shortest_s = shortest_s
        self.items = 0

    @property
    def is_free(self) -> bool:
        return not self.items

    def end_s(self, coming: int) -> float:
        return (self.items + coming) * self.item_s


def create(batcher: Batcher, *, decode_threads: int = 1, **settings: Any) -> Admission:
    declared = ModelSettings.model_validate(
        {"input": {"type": "image"}, "deadline": {"latency_ms": 1e3 * DEADLINE_S}, **settings}
    )
    return Admission("m", declared, batcher, decode_threads)


def take(admission: Admission, batcher: Batcher, items: int = 1) -> None:
    admission.begin(Work(items), DEADLINE_S)
    batcher.items += items


def fill(admission: Admission, batcher: Batcher) -> Overloaded:
    """Take requests of one item until one is refused."""
    for _ in range(10_000):
        try:
            take(admission, batcher)
        except Overloaded as exc:
            return exc
    raise AssertionError("all were taken")


def test_no_more_is_taken_than_can_be_done_in_good_time() -> None:
    batcher = Batcher(0.025)
    admission = create(batcher)
    error = fill(admission, batcher)
    assert batcher.items == 140  # 3.5 s of 10
    assert "Model 'm' has too much to do: 140 items, some 3.5 s" in str(error)
    with pytest.raises(Overloaded):
        admission.check()


def test_who_waits_as_long_as_it_is_told_is_taken_if_nobody_else_came() -> None:
    batcher = Batcher(0.025)
    admission = create(batcher)
    error = fill(admission, batcher)
    assert error.retry_after_s == 2  # half of what is ahead
    done = round(error.retry_after_s / batcher.item_s)
    batcher.items -= done
    admission.end(Work(done))
    for _ in range(done):
        take(admission, batcher)


def test_a_large_request_is_told_when_there_will_be_room_for_it() -> None:
    batcher = Batcher(0.025)
    admission = create(batcher)
    take(admission, batcher, 120)  # 3 s
    with pytest.raises(Overloaded) as refused:
        take(admission, batcher, 110)  # 2.75 s, for which 0.75 s are to be left of the 3.5
    assert refused.value.retry_after_s == 3
    with pytest.raises(Overloaded) as refused:
        take(admission, batcher, 1000)  # 25 s
    assert refused.value.retry_after_s == 3
    batcher.items = 0
    admission.end(Work(120))
    take(admission, batcher, 1000)


def test_what_is_left_of_a_deadline_counts() -> None:
    batcher = Batcher(0.025)
    admission = create(batcher)
    take(admission, batcher, 40)  # 1 s
    with pytest.raises(Overloaded):
        admission.begin(Work(1), 2.9)
    admission.begin(Work(1), 3.0)


def test_nothing_is_refused_for_time_while_nothing_is_known() -> None:
    batcher = Batcher(0.0)
    admission = create(batcher, limits={"max_queued_items": 50})
    error = fill(admission, batcher)
    assert "The queue of model 'm' is full: 50 of 50 items" in str(error)


def test_what_finds_everything_idle_is_taken_however_long_it_takes() -> None:
    batcher = Batcher(60.0)
    admission = create(batcher)
    admission.begin(Work(1), DEADLINE_S)  # and answered from the cache, say: the batcher is idle
    take(admission, batcher)
    with pytest.raises(Overloaded):
        take(admission, batcher)


def test_batches_that_are_long_however_small_stay_full() -> None:
    """A second batch may form while one of 3 s runs, though it will end after more than 3.5 s; but
    not a third one."""
    batcher = Batcher(3.0 / 8, shortest_s=3.0)
    admission = create(batcher)
    fill(admission, batcher)
    assert batcher.items == 16
    late = Batcher(6.0 / 8, shortest_s=6.0)
    admission = create(late)
    fill(admission, late)
    assert late.items == 12  # 9 s: what ends after the deadline is of no use


def test_images_wait_for_those_that_are_decoded_before_them() -> None:
    batcher = Batcher(0.001)
    admission = create(batcher, decode_threads=2)
    small, large = Work(1, 1, images=1, pixels=1000), Work(1, 1, images=1, pixels=1_000_000)
    for work, seconds in ((small, 0.001), (large, 1.0)) * 4:
        admission.end_decoding(work, admission.begin_decoding(work), seconds)
    expected = []
    for _ in range(6):  # 3 s for each of two threads
        admission.begin(large, DEADLINE_S)
        expected.append(admission.begin_decoding(large))
    assert expected == pytest.approx([1.0] * 6, rel=0.01)
    huge = Work(1, 1, images=1, pixels=2_000_000)
    with pytest.raises(Overloaded) as refused:
        admission.begin(huge, DEADLINE_S)
    assert refused.value.retry_after_s == 2
    for _ in range(20):
        admission.begin(small, DEADLINE_S)
    admission.end_decoding(large, expected.pop(), 1.0)
    admission.end_decoding(large, expected.pop(), 1.0)
    admission.begin(huge, DEADLINE_S)


def test_an_image_of_unknown_size_says_nothing_of_what_pixels_take() -> None:
    admission = create(Batcher(0.001))
    unknown, known = Work(1, 1, images=1), Work(1, 1, images=1, pixels=1000)
    admission.end_decoding(unknown, admission.begin_decoding(unknown), 1.0)
    admission.end_decoding(known, admission.begin_decoding(known), 0.1)
    assert admission.begin_decoding(known) == pytest.approx(0.1)


def test_items_have_their_bound_and_bytes_as_well_but_for_what_is_alone() -> None:
    batcher = Batcher(0.0)
    admission = create(batcher, limits={"max_queued_items": 3, "max_queued_mb": 0.001})
    with pytest.raises(Overloaded, match="is full: 0 of 3 items"):
        admission.begin(Work(4, 0), DEADLINE_S)
    admission.begin(Work(3, 5000), DEADLINE_S)
    with pytest.raises(Overloaded, match="is full: 3 of 3 items"):
        admission.begin(Work(1, 0), DEADLINE_S)
    admission.end(Work(3, 5000))
    admission.begin(Work(1, 900), DEADLINE_S)
    with pytest.raises(Overloaded, match=r"is full: 0\.0009 of 0\.001 MB") as refused:
        admission.begin(Work(1, 200), DEADLINE_S)
    assert refused.value.retry_after_s == 1


def test_when_to_come_again_survives_the_way_to_a_handles_caller() -> None:
    batcher = Batcher(0.025)
    error = fill(create(batcher), batcher)
    assert pickle.loads(pickle.dumps(error)).retry_after_s == error.retry_after_s == 2
    assert error.at("[0]").retry_after_s == 2
