"""The cache of answers: hits, single flight, who leaves and who fails."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np
import pytest

from rayserve_app.errors import DeadlineExceeded, Overloaded, PredictError
from rayserve_app.inference.answer_cache import INLINE_BYTES, Answers
from rayserve_app.inference.batcher import Result
from rayserve_app.metrics.recorder import Recorder
from rayserve_app.process.timing import Timing
from rayserve_app.process.workers import Workers
from rayserve_app.types import Row


class Cached:
    """A model behind a cache; it answers with what `answer` makes of an item, once it is let
    through, and remembers what it was asked."""

    def __init__(self, answer: Callable[[Any], Any] = str.upper, *, is_open: bool = True) -> None:
        self.recorder = Recorder()
        self.answers = Answers(10_000_000, recorder=self.recorder, workers=Workers(1, "test"))
        self.opened = asyncio.Event()
        self.asked: list[list[Any]] = []
        self.cancelled = 0
        self._answer = answer
        if is_open:
            self.opened.set()

    async def __call__(
        self, *items: Any, scope: Any = None, timeout_s: float = 10, timing: Timing | None = None
    ) -> list[Result]:
        def ask(places: Sequence[int], left_s: float) -> Coroutine[Any, Any, list[Result]]:
            return self._predict([items[place] for place in places], left_s)

        return await self.answers.predict(
            items, scope, ask, timeout_s=timeout_s, timing=timing or Timing()
        )

    def start(self, *items: Any, **options: Any) -> asyncio.Task[list[Result]]:
        return asyncio.create_task(self(*items, **options))

    async def _predict(self, items: list[Any], left_s: float) -> list[Result]:
        self.asked.append(items)
        try:
            async with asyncio.timeout(left_s):
                await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        except TimeoutError as exc:
            raise DeadlineExceeded("late") from exc
        if any(isinstance(item, str) and item == "bad" for item in items):
            raise Overloaded("full")
        outputs = [self._answer(item) for item in items]
        return [
            output if isinstance(output, PredictError) else Row(outputs, place)
            for place, output in enumerate(outputs)
        ]


def values(results: list[Result]) -> list[Any]:
    assert all(isinstance(result, Row) for result in results), results
    return [result.value for result in results if isinstance(result, Row)]


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


async def test_an_item_is_predicted_once_in_each_scope() -> None:
    model = Cached()
    assert values(await model("a", "b")) == ["A", "B"]
    assert values(await model("b", "c", "a")) == ["B", "C", "A"]
    assert values(await model("a", scope="2")) == ["A"]
    assert model.asked == [["a", "b"], ["c"], ["a"]]
    assert model.recorder.cached_items == {"miss": 4, "hit": 2}


async def test_equal_items_of_one_request_are_predicted_once() -> None:
    model = Cached(lambda item: [item])
    first, second, third = values(await model("a", "b", "a"))
    assert (first, second, third) == (["a"], ["b"], ["a"])
    first.append("changed")
    assert third == ["a"]
    assert model.asked == [["a", "b"]]


async def test_equal_items_at_one_time_share_one_prediction() -> None:
    model = Cached(is_open=False)
    timing = Timing()
    waiting = [model.start("a"), model.start("a", "b"), model.start("b", "a", timing=timing)]
    await until(lambda: len(model.asked) == 2)
    await asyncio.sleep(0.02)
    model.opened.set()
    assert [values(await each) for each in waiting] == [["A"], ["A", "B"], ["B", "A"]]
    assert model.asked == [["a"], ["b"]]
    assert model.recorder.cached_items == {"miss": 2, "shared": 3}
    assert timing.batch_wait >= 0.02


async def test_who_shares_a_prediction_may_change_its_answer() -> None:
    model = Cached(lambda item: {"scores": [1, 2]}, is_open=False)
    waiting = [model.start("a"), model.start("a")]
    await until(lambda: model.asked)
    model.opened.set()
    own, shared = [values(await each)[0] for each in waiting]
    own["scores"].append(3)
    assert shared == {"scores": [1, 2]}
    assert values(await model("a")) == [{"scores": [1, 2]}]


async def test_who_asked_may_leave_and_the_prediction_goes_on_for_the_others() -> None:
    model = Cached(is_open=False)
    first, second = model.start("a"), model.start("a")
    await until(lambda: model.asked)
    first.cancel()
    await asyncio.sleep(0.01)
    model.opened.set()
    assert values(await second) == ["A"]
    assert (model.asked, model.cancelled) == ([["a"]], 0)


async def test_a_prediction_that_nobody_waits_for_ends() -> None:
    model = Cached(is_open=False)
    waiting = [model.start("a"), model.start("a")]
    await until(lambda: model.asked)
    for each in waiting:
        each.cancel()
    await until(lambda: model.cancelled)
    model.opened.set()
    assert values(await model("a")) == ["A"]
    assert model.asked == [["a"], ["a"]]


async def test_a_prediction_that_fails_as_a_whole_fails_only_for_who_asked() -> None:
    model = Cached(is_open=False)
    first, second = model.start("a", "bad"), model.start("a")
    await until(lambda: model.asked)
    model.opened.set()
    with pytest.raises(Overloaded, match="full"):
        await first
    assert values(await second) == ["A"]
    assert model.asked == [["a", "bad"], ["a"]]


async def test_who_came_later_has_its_own_deadline() -> None:
    model = Cached(is_open=False)
    first = model.start("a", timeout_s=0.05)
    await until(lambda: model.asked)
    second = model.start("a", timeout_s=10)
    with pytest.raises(DeadlineExceeded):
        await first
    await until(lambda: len(model.asked) == 2)
    model.opened.set()
    assert values(await second) == ["A"]


async def test_who_shares_a_prediction_waits_no_longer_than_its_own_deadline() -> None:
    model = Cached(is_open=False)
    first = model.start("a", timeout_s=10)
    await until(lambda: model.asked)
    with pytest.raises(DeadlineExceeded):
        await model("a", timeout_s=0.05)
    model.opened.set()
    assert values(await first) == ["A"]


async def test_an_items_error_is_told_to_all_who_wait_and_not_kept() -> None:
    errors: list[Any] = [PredictError("lost"), "found"]
    model = Cached(lambda item: errors.pop(0), is_open=False)
    waiting = [model.start("a"), model.start("a")]
    await until(lambda: model.asked)
    model.opened.set()
    assert [str(result) for each in waiting for result in await each] == ["lost", "lost"]
    assert values(await model("a")) == ["found"]
    assert values(await model("a")) == ["found"]
    assert len(model.asked) == 2


async def test_items_and_answers_that_cannot_be_kept_are_predicted_each_time() -> None:
    answer = object()
    model = Cached(lambda item: answer)
    unknown = object()
    for _ in range(2):
        assert values(await model("a", unknown)) == [answer, answer]
        assert values(await model("a")) == [answer]
    assert model.asked == [["a", unknown], ["a"]] * 2
    assert model.recorder.cached_items == {"miss": 2}


async def test_large_items_and_answers_are_kept_like_small_ones() -> None:
    model = Cached(lambda item: item * 2)
    item = np.arange(INLINE_BYTES, dtype=np.int64)
    alive = weakref.ref(item)
    (first,) = values(await model(item))
    await until(lambda: model.answers.size_bytes)
    (second,) = values(await model(np.array(item)))
    np.testing.assert_array_equal(second, first)
    assert second is not first
    assert len(model.asked) == 1
    model.asked.clear()
    del item
    gc.collect()
    await until(lambda: alive() is None)


async def test_an_answer_larger_than_the_cache_is_not_even_copied() -> None:
    model = Cached(lambda item: np.zeros(20_000_000, np.uint8))
    for _ in range(2):
        assert len(values(await model("a"))[0]) == 20_000_000
    assert model.answers.size_bytes == 0
    assert len(model.asked) == 2


async def test_nothing_stays_after_many_who_leave_fail_and_share() -> None:
    model = Cached(lambda item: item)
    rng = np.random.default_rng(1)

    async def client(number: int) -> None:
        for turn in range(40):
            items = [f"{item}" for item in rng.integers(0, 30, 4)]
            if rng.random() < 0.1:
                items.append("bad")
            task = model.start(*items)
            await asyncio.sleep(0)
            if rng.random() < 0.3:
                task.cancel()
            with contextlib.suppress(Overloaded, asyncio.CancelledError):
                assert values(await task) == items, (number, turn)

    await asyncio.gather(*map(client, range(8)))
    assert values(await model(*map(str, range(30)))) == list(map(str, range(30)))
    assert not model.answers.predictions_under_way
