"""Items that have a value for each of a model's inputs, and those that have not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rayserve_app.errors import ShapeMismatch
from rayserve_app.inference.named_inputs import check_one_shape, match_inputs


def test_a_value_without_a_name_is_the_only_inputs() -> None:
    assert match_inputs(5, {"x": None}) == {"x": 5}


@pytest.mark.parametrize("item", [{"x": 1, "y": 2, "z": 3}, {"z": 3, "y": 2, "x": 1}])
def test_values_keep_their_names(item: Any) -> None:
    assert match_inputs(item, dict.fromkeys("xyz")) == {"x": 1, "y": 2, "z": 3}


def test_an_optional_input_may_be_missing() -> None:
    assert match_inputs({"x": 1}, dict.fromkeys("xy"), optional=["y"]) == {"x": 1}


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        (5, "The model takes several inputs: expected an array for each of x, y, got a single"),
        ({"y": 1}, "An input is missing: expected x, y, got y - at `x`"),
        ({}, "An input is missing: expected x, y, got nothing - at `x`"),
        ({"x": 1, "y": 1, "z": 1}, "There is no such input: expected x, y, got x, y, z - at `z`"),
        ({"x": 1, "z": 1}, "There is no such input: expected x, y, got x, z - at `z`"),
    ],
)
def test_what_does_not_match_is_told(item: Any, sentence: str) -> None:
    with pytest.raises(ShapeMismatch) as fault:
        match_inputs(item, dict.fromkeys("xy"))
    assert str(fault.value).startswith(sentence)


def test_items_of_one_batch_have_one_shape() -> None:
    check_one_shape([np.zeros(2), np.ones(2)], "x")
    with pytest.raises(ShapeMismatch, match=r"expected one shape, got \(2,\), \(3,\) - at `x`"):
        check_one_shape([np.zeros(3), np.zeros(2), np.zeros(3)], "x")
