"""From a model's results to answers of TensorFlow Serving's REST API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from rayserve_app.codecs.plain_values import widened
from rayserve_app.codecs.tensorflow.reply import (
    render_classifications,
    render_outputs,
    render_predictions,
    render_regressions,
)
from rayserve_app.codecs.tensorflow.tensors import shape_text
from rayserve_app.errors import InvalidRequest, NotAcceptable, PredictError, RequestTooLarge
from rayserve_app.payloads.outputs import MAX_TEXT_BYTES, named_arrays, whole_columns
from rayserve_app.protocols.writing import writing_bytes
from rayserve_app.types import Array, Row, TensorSpec

# tensorflow/cc/saved_model/signature_constants.h
CLASSES: Final = "classes"
SCORES: Final = "scores"
OUTPUTS: Final = "outputs"


def written_bytes(rows: Sequence[Row]) -> int:
    """Return how much work the results are to write, as `writing_bytes` does.

    Raises:
        RequestTooLarge: more than JSON can be asked to hold.
    """
    try:
        return writing_bytes(rows)
    except NotAcceptable as exc:
        raise RequestTooLarge(
            "The result is too large for JSON",
            expected=f"at most {MAX_TEXT_BYTES} bytes of arrays",
            got=exc.got,
            remedy="Send fewer items in one request.",
        ) from exc


def predictions(rows: Sequence[Row], specs: Sequence[TensorSpec] = ()) -> bytes:
    """Return the answer to a predict request in row form.

    Args:
        specs: what the model says of its outputs.
    Raises:
        InvalidRequest: an output has no batch axis, of which no row has its own.
    """
    columns = _columns(rows)
    for spec in specs:
        if spec.has_batch_axis or spec.name not in columns:
            continue
        shape = columns[spec.name].shape[1:]
        if shape and shape[0] != len(rows):
            problem = f"inconsistent batch size: {shape[0]} expecting: {len(rows)}"
        else:
            problem = "no batch axis" if shape else "no shape information "
        raise InvalidRequest(
            f"Tensor name: {spec.name} has {problem}", remedy="Ask with `inputs`, in columns."
        )
    return render_predictions(columns)


def outputs(rows: Sequence[Row], specs: Sequence[TensorSpec] = (), *, is_batch: bool) -> bytes:
    """Return the answer to a predict request in columnar form, one item's without an axis of
    items unless it was sent with one; outputs without a batch axis as they are."""
    columns = whole_columns(_columns(rows), specs)
    without_batch = {spec.name for spec in specs if not spec.has_batch_axis}
    if not is_batch:
        columns = {
            name: column if name in without_batch else column[:1].reshape(column.shape[1:])
            for name, column in columns.items()
        }
    return render_outputs(columns)


def classifications(rows: Sequence[Row]) -> bytes:
    """Return the answer to a classify request.

    Results are classes with scores (deployments/torch/classes.py); or the outputs `classes` and
    `scores`, one of them or both (classifier.cc); or one output of a score for each class, which
    then have no names.

    Raises:
        InvalidRequest: the model is no classifier.
    """
    if not isinstance(rows[0].outputs, Mapping):
        pairs = [_pairs(row.value) for row in rows]
        labels = [[label for label, _ in each] for each in pairs]
        return render_classifications(labels, [[score for _, score in each] for each in pairs])
    columns = {name: widened(column) for name, column in named_arrays(rows).items()}
    names, scores = columns.get(CLASSES), columns.get(SCORES)
    if names is None and scores is None:
        if len(columns) > 1:
            raise _no_classifier(f"the outputs {', '.join(map(repr, columns))}")
        (scores,) = columns.values()
    names, scores = paired_classes(names, scores)
    for array, kinds in ((names, "SUO"), (scores, "iuf")):
        if array.dtype.kind not in kinds:
            raise _no_classifier(f"an output of {array.dtype}")
    return render_classifications(names.tolist(), list(scores))


def regressions(rows: Sequence[Row]) -> bytes:
    """Return the answer to a regress request: of the output `outputs`, or of the only one.

    Raises:
        InvalidRequest: the model's answer is not one number for each item.
    """
    columns = {name: widened(column) for name, column in named_arrays(rows).items()}
    if OUTPUTS not in columns and len(columns) > 1:
        raise InvalidRequest("Expected one output Tensor.", got=", ".join(map(repr, columns)))
    values = columns.get(OUTPUTS, next(iter(columns.values())))
    if values.dtype.kind not in "iuf":
        raise InvalidRequest(f"Expected output Tensor of DT_FLOAT.  Got: {values.dtype}")
    return render_regressions(regression_values(values))


def paired_classes(names: Array | None, scores: Array | None) -> tuple[Array, Array]:
    """Return the names and the scores of classes, (N, K) each: empty names or scores of 0 for those
    that a model does not give, of which it gives some.

    Raises:
        InvalidRequest: they have other shapes.
    """
    for array in (names, scores):
        if array is not None and array.ndim != 2:
            raise InvalidRequest(
                f"Expected Tensor shape: [batch_size num_classes] but got {shape_text(array)}"
            )
    if names is None:
        assert scores is not None
        names = np.full(scores.shape, "", object)
    if scores is None:
        scores = np.zeros(names.shape, np.float32)
    if names.shape != scores.shape:
        raise InvalidRequest(
            "Tensors class and score should match in dim_size(1). Got"
            f" {names.shape[1]} vs. {scores.shape[1]}"
        )
    return names, scores


def regression_values(values: Array) -> Array:
    """Return the value of each item, (N,), of an output (N,) or (N, 1).

    Raises:
        InvalidRequest: it has another shape.
    """
    if values.ndim != 1 and (values.ndim != 2 or values.shape[1] != 1):
        raise InvalidRequest(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got"
            f" {shape_text(values)}"
        )
    return values.reshape(-1)


def _columns(rows: Sequence[Row]) -> dict[str, Array]:
    try:
        return named_arrays(rows)
    except PredictError:
        # Lists of JSON, unlike tensors, may be of unlike lengths.
        return {name: _objects([row.value[name] for row in rows]) for name in rows[0].outputs}


def _objects(values: Sequence[Any]) -> Array:
    array = np.empty(len(values), object)
    for index, value in enumerate(values):
        array[index] = value
    return array


def _pairs(value: Any) -> list[tuple[str | bytes, float]]:
    """Return one item's classes: objects of `label` and `score`, pairs of them, or scores alone."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, str | bytes | bytearray | memoryview):
        raise _no_classifier(type(value).__name__)
    try:
        return [_pair(each) for each in value]
    except (TypeError, ValueError, KeyError) as exc:
        raise _no_classifier(type(value).__name__) from exc


def _pair(value: Any) -> tuple[str | bytes, float]:
    if isinstance(value, Mapping):
        return _label(value["label"]), float(value["score"])
    if isinstance(value, list | tuple):
        label, score = value
        return _label(label), float(score)
    if isinstance(value, str | bytes):
        raise TypeError(value)
    return "", float(value)


def _label(value: Any) -> str | bytes:
    return value if isinstance(value, bytes) else str(value)


def _no_classifier(got: str) -> InvalidRequest:
    return InvalidRequest(
        f'Expected classification signature outputs to contain at least one of "{CLASSES}" or'
        f' "{SCORES}"',
        got=got,
    )
