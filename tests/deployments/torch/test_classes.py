"""Scores to named classes; what is expected is worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic import ValidationError

from deployments.torch.classes import ClassSettings, best_classes, read_labels
from rayserve_app.codecs import json
from rayserve_app.errors import LoadError, PredictError

LABELS = ("cat", "dog", "emu")


def test_the_best_come_first() -> None:
    scores = np.array([[0.25, 0.5, 0.125], [3, 2, 4]], np.float32)
    assert best_classes(scores, LABELS, top_n=2) == [
        [{"label": "dog", "score": 0.5}, {"label": "cat", "score": 0.25}],
        [{"label": "emu", "score": 4.0}, {"label": "cat", "score": 3.0}],
    ]


@pytest.mark.parametrize("top_n", [None, 3, 1000])
def test_all_classes_where_fewer_are_not_asked_for(top_n: int | None) -> None:
    (best,) = best_classes(np.array([[1, 2, 3]]), LABELS, top_n=top_n)
    assert [each["label"] for each in best] == ["emu", "dog", "cat"]


def test_equal_scores_keep_the_order_of_the_labels() -> None:
    (best,) = best_classes(np.zeros((1, 3)), LABELS, top_n=2)
    assert [each["label"] for each in best] == ["cat", "dog"]


def test_softmax_makes_logits_probabilities() -> None:
    (best,) = best_classes(np.log(np.array([[1.0, 2.0, 5.0]])), LABELS, softmax=True)
    assert [each["label"] for each in best] == ["emu", "dog", "cat"]
    np.testing.assert_allclose([each["score"] for each in best], [5 / 8, 2 / 8, 1 / 8])


@given(arrays.arrays(np.float32, (2, 3), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_softmax_of_any_logits_is_finite_and_sums_to_1(scores: np.ndarray) -> None:
    for best in best_classes(scores, LABELS, softmax=True):
        assert sum(each["score"] for each in best) == pytest.approx(1)


def test_axes_of_one_do_not_matter() -> None:
    """As classifiers of convolutions alone answer: (N, K, 1, 1)."""
    scores = np.arange(6.0).reshape(2, 3, 1, 1)
    assert best_classes(scores, LABELS) == best_classes(scores.reshape(2, 3), LABELS)


@pytest.mark.parametrize("shape", [(2,), (2, 4), (2, 2), (2, 3, 2), (2, 0)])
def test_other_shapes_are_the_models_fault(shape: tuple[int, ...]) -> None:
    with pytest.raises(PredictError, match=r"not a score for each label: expected \(N, 3\), got"):
        best_classes(np.zeros(shape), LABELS)


def test_answers_can_be_written_as_json() -> None:
    written = json.encode(best_classes(np.array([[1, 2, 3]], np.float32), LABELS, top_n=1))
    assert written == b'[[{"label":"emu","score":3.0}]]'


def test_a_score_that_is_no_number_is_refused_by_json_alone() -> None:
    best = best_classes(np.array([[1, np.nan, 3]], np.float32), LABELS)
    with pytest.raises(PredictError, match="NaN or infinity"):
        json.encode(best)


def test_labels_stand_in_the_yaml_or_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_bytes("\ufeffcat\r\nPerserkätzchen\n\nemu\n".encode())
    assert read_labels(LABELS) == LABELS
    # An empty line is a class without a name: what follows keeps its number.
    assert read_labels(str(file)) == ("cat", "Perserkätzchen", "", "emu")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"\xff\xfe", "cannot be read: expected a text file of one name"), (b"\n", "No labels in")],
)
def test_a_file_without_labels_is_named(tmp_path: Path, content: bytes, sentence: str) -> None:
    file = tmp_path / "labels.txt"
    file.write_bytes(content)
    with pytest.raises(LoadError, match=rf"{sentence}.*args\.model\.classes\.labels"):
        read_labels(str(file))


@pytest.mark.parametrize(
    "settings", [{}, {"labels": []}, {"labels": ["a"], "top_n": 0}, {"labels": ["a"], "k": 1}]
)
def test_settings_are_checked(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ClassSettings.model_validate(settings)
