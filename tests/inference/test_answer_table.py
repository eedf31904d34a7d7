"""Answers that are kept: bounded by bytes, and nobody's to change."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

from rayserve_app.inference.answer_table import OVERHEAD_BYTES, Answer, KeptAnswers, copy_row
from rayserve_app.types import Reply, Row


def copied(row: Row) -> Answer:
    answer = copy_row(row)
    assert answer is not None
    return answer


def keep(kept: KeptAnswers, key: str, count: int) -> None:
    kept.put(key, copied(Row({"x": np.zeros((1, count), np.uint8)}, 0)))


def test_the_least_recently_used_go_first_and_the_bytes_are_bounded() -> None:
    kept = KeptAnswers(3 * (1000 + OVERHEAD_BYTES))
    for key in "abc":
        keep(kept, key, 1000)
    assert kept.get("a") is not None
    keep(kept, "d", 1000)
    assert [key for key in "abcd" if kept.get(key)] == ["a", "c", "d"]
    assert kept.size_bytes == 3 * (1000 + OVERHEAD_BYTES)
    keep(kept, "e", 2000)
    assert [key for key in "abcde" if kept.get(key)] == ["d", "e"]
    keep(kept, "d", 10)
    assert kept.size_bytes == 2010 + 2 * OVERHEAD_BYTES


def test_an_answer_larger_than_all_room_is_not_kept_and_costs_no_other() -> None:
    kept = KeptAnswers(5000)
    keep(kept, "a", 1000)
    keep(kept, "b", 5000)
    assert (len(kept), kept.get("b")) == (1, None)


def test_a_kept_row_does_not_keep_its_batch() -> None:
    batch = np.arange(40.0).reshape(10, 4)
    alive = weakref.ref(batch)
    answer = copied(Row({"x": batch}, 3))
    objects = copied(Row([batch[7]], 0))
    del batch
    gc.collect()
    assert alive() is None
    assert answer.row.value["x"].tolist() == [12.0, 13.0, 14.0, 15.0]
    assert objects.row.value.tolist() == [28.0, 29.0, 30.0, 31.0]
    assert answer.size_bytes == objects.size_bytes == 32 + OVERHEAD_BYTES


def test_arrays_are_handed_out_read_only_and_collections_as_copies() -> None:
    value = {"scores": [0.5, {"a": 1}], "pixels": np.ones(3), "pair": (1, [2])}
    kept = KeptAnswers(100_000)
    kept.put("a", copied(Row([value], 0)))
    value["scores"].append(9)  # type: ignore[union-attr]
    for _ in range(2):
        row = kept.get("a")
        assert row is not None
        assert row.value["scores"] == [0.5, {"a": 1}]
        assert row.value["pair"] == (1, [2])
        row.value["scores"][1]["a"] = 2
        row.value["pair"][1].append(3)
        row.value.pop("scores")
        with pytest.raises(ValueError, match="read-only"):
            row.value["pixels"][0] = 7


def test_named_outputs_are_read_only() -> None:
    answer = copied(Row({"x": np.ones((2, 3))}, 1))
    with pytest.raises(ValueError, match="read-only"):
        answer.row.value["x"][0] = 7
    with pytest.raises(TypeError):
        answer.row.outputs["x"] = 0  # type: ignore[index]


@pytest.mark.parametrize(
    "value",
    [
        "text",
        b"bytes",
        7,
        1.5,
        True,
        None,
        np.float32(2),
        Reply(b"{}", "application/json"),
        [1, "a"],
        np.array(["a", b"b"], object),
    ],
)
def test_what_models_answer_can_be_kept(value: Any) -> None:
    answer = copied(Row([value], 0))
    assert type(answer.row.value) is type(value)
    assert answer.row.value is value or np.array_equal(answer.row.value, value)
    assert answer.size_bytes > OVERHEAD_BYTES


@pytest.mark.parametrize(
    "value", [object(), [object()], {"a": {1, 2}}, bytearray(3), np.array([[1], "a"], object)]
)
def test_what_somebody_might_change_is_not_kept(value: Any) -> None:
    assert copy_row(Row([value], 0)) is None
