"""From a classifier's scores to the names of its best classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypedDict

import numpy as np
from pydantic import Field

from rayserve_app.artifacts.sources import fetch
from rayserve_app.errors import LoadError, PredictError
from rayserve_app.settings.section import Section
from rayserve_app.types import Array, describe


class ClassSettings(Section):
    """Answer the best classes by name, not all scores."""

    labels: Annotated[tuple[str, ...], Field(min_length=1)] | str
    """The classes' names in the order of the scores, or a text file, UTF-8, of one name a line."""
    top_n: Annotated[int, Field(gt=0)] | None = None
    """How many of the best classes to answer; all of them if not set."""
    softmax: bool = False
    """Whether the model's outputs are logits, of which softmax makes scores that sum to 1."""


class Class(TypedDict):
    """One class of an answer."""

    label: str
    score: float


def read_labels(labels: Sequence[str] | str) -> tuple[str, ...]:
    """Return the names that the settings list, or those in the file that they name; an empty last
    line is none.

    Raises:
        LoadError: the file cannot be read, or is empty.
    """
    if not isinstance(labels, str):
        return tuple(labels)
    path: Path = fetch(labels)
    try:
        names = tuple(line.strip() for line in path.read_text("utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as exc:
        raise LoadError(
            f"The labels in `{path}` cannot be read",
            expected="a text file of one name a line",
            got=f"{type(exc).__name__}: {exc}",
            path="args.model.classes.labels",
        ) from exc
    if not any(names):
        raise LoadError(f"No labels in `{path}`", path="args.model.classes.labels")
    return names


def best_classes(
    scores: Array, labels: Sequence[str], *, top_n: int | None = None, softmax: bool = False
) -> list[list[Class]]:
    """Return the best classes of each item, the best first; of equal ones the first in `labels`.

    Args:
        scores: (N, K) numbers, one column for each of the K labels; axes of length 1 may follow.
        top_n: how many classes at most; None for all.
        softmax: whether to turn the scores into probabilities first.

    Raises:
        PredictError: the scores have another shape.
    """
    count = len(labels)
    if scores.ndim < 2 or scores.size != len(scores) * scores.shape[1] or scores.shape[1] != count:
        raise PredictError(
            "The output is not a score for each label",
            expected=f"(N, {count})",
            got=describe(scores),
        )
    table = scores.reshape(len(scores), count).astype(np.float64)
    if softmax:
        table = _softmax(table)
    order = np.argsort(-table, axis=1, kind="stable")[:, :top_n]
    return [
        [Class(label=labels[index], score=float(row[index])) for index in best]
        for row, best in zip(table, order, strict=True)
    ]


def _softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: Array = powers / powers.sum(axis=1, keepdims=True)
    return shares
