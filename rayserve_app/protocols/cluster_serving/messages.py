"""Cluster Serving's JSON: instances to items, and results to the strings that clients parse.

Sources: Analytics Zoo, serving/http/domains.scala (Instances, Predictions),
serving/serialization/{JsonInputDeserializer,ArrowDeserializer}.scala and
serving/postprocessing/PostProcessing.scala, as of 0.11 and BigDL 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from rayserve_app.codecs import json, sparse
from rayserve_app.codecs.plain_values import exact_array, text_of, widened
from rayserve_app.errors import DecodeError, InvalidRequest, PredictError, ServingError, release
from rayserve_app.inference.batcher import Result
from rayserve_app.inference.servables import Servable
from rayserve_app.payloads.items import Encoded
from rayserve_app.payloads.outputs import named_arrays
from rayserve_app.payloads.tensors import as_array, whole
from rayserve_app.protocols.protocol import Declined
from rayserve_app.types import Array, Buffer, Row, TensorSpec

# domains.scala, Instances.
NO_INSTANCE: Final = (
    "no instance can be found, please check your input or json(keyword should be 'instances')"
)

FAILED: Final = "NaN"
"""What stands for the result of an instance on which the model failed (FlinkInference.scala)."""

EXACT_IN_FLOAT: Final = 2**24
"""Not every integer beyond it is a float32."""

PredictionForm: TypeAlias = Literal["json", "map"]

PostProcessing: TypeAlias = Callable[[Array], str]


class NoInstances(InvalidRequest):
    """It is not even an object with `instances`: maybe another protocol's request."""


def parse(
    body: Buffer, servable: Servable, *, max_dense_bytes: int
) -> list[list[Encoded] | DecodeError]:
    """Read the items of each instance, or why it has none; `Content-Type` plays no part
    (FrontEndApp.scala).

    An instance maps names to values. A model of one input takes the one value that there is,
    whatever its name; one of named tensors takes those of its inputs' names.

    Args:
        max_dense_bytes: what the sparse tensors of one request may take.
    Raises:
        InvalidRequest: no instances, or one that does not fit the model, of images none that can
            be read; the path says which.
        RequestTooLarge: more items, pixels or elements than the model allows.
        NoInstances: no object, or one without `instances`.
        Declined: the body is a query of Clipper's.
    """
    try:
        fields = json.decode_object(body)
    except DecodeError as exc:
        raise NoInstances(str(exc)) from exc
    if "instances" not in fields:
        error = NoInstances(NO_INSTANCE)
        raise Declined(error) if fields.keys() & {"input", "input_batch"} else error
    instances = fields["instances"]
    if not isinstance(instances, list) or not instances:
        raise InvalidRequest(NO_INSTANCE)
    servable.inputs.check_count(len(instances))
    reader = _InstanceReader(servable, max_dense_bytes)
    items = [reader.read_apart(value, f"instances[{i}]") for i, value in enumerate(instances)]
    servable.inputs.check_count(sum(len(each) for each in items if isinstance(each, list)))
    if all(isinstance(each, DecodeError) for each in items):
        assert isinstance(items[0], DecodeError)
        raise items[0]
    return items


class _InstanceReader:
    """Reads the instances of one request."""

    def __init__(self, servable: Servable, max_dense_bytes: int) -> None:
        self._inputs = servable.inputs
        self._settings = servable.inputs.settings
        self._tensors = servable.inputs.tensors
        self._dense_bytes_left = max_dense_bytes

    def read_apart(self, instance: Any, path: str) -> list[Encoded] | DecodeError:
        """Return an instance's items; of an image that cannot be read, the error."""
        try:
            return self.read(instance, path)
        except DecodeError as exc:
            if not self._inputs.may_be_image:
                raise
            release(exc)
            return exc

    def read(self, instance: Any, path: str) -> list[Encoded]:
        if not isinstance(instance, Mapping) or not instance:
            raise DecodeError(
                "Not an instance",
                expected="an object of names and values",
                got=type(instance).__name__,
                path=path,
            )
        if self._settings.type == "tensors":
            specs = self._tensors.specs
            columns = {
                name: self._tensor(value, specs.get(name), f"{path}.{name}")
                for name, value in instance.items()
            }
            return self._inputs.from_json_item(columns, path=path)
        if len(instance) == 1:
            ((name, value),) = instance.items()
            return self._value(value, f"{path}.{name}")
        if self._settings.type == "request" or self._settings.codec == "json_metadata":
            # Several names make one document, or an image with its metadata.
            return self._inputs.from_json_item(instance, path=path)
        raise DecodeError(
            "The model has one input", expected="one name", got=str(sorted(instance)), path=path
        )

    def _value(self, value: Any, path: str) -> list[Encoded]:
        if self._inputs.takes_tensors:
            value = self._tensor(value, self._tensors.spec, path)
        elif self._settings.type == "string" and isinstance(value, list):
            # A string tensor; each of its strings is an item here.
            self._inputs.check_count(len(value))
            return [
                item
                for index, text in enumerate(value)
                for item in self._inputs.from_json_item(text, path=f"{path}[{index}]")
            ]
        return self._inputs.from_json_item(value, path=path)

    def _tensor(self, value: Any, spec: TensorSpec | None, path: str) -> Any:
        """Return a tensor as the model counts: numbers are all floats to upstream, so those of a
        model of integers may be written `100.0`, and a scalar may stand for an array of one."""
        try:
            if sparse.is_sparse(value):
                array = sparse.decode(value, max_bytes=self._dense_bytes_left)
                self._dense_bytes_left -= array.nbytes
                return array
            if spec is None:
                return value
            if not isinstance(value, list | Mapping) and len(spec.shape) == 2:
                # JsonInputDeserializer.scala: `if (shapeBuffer.isEmpty) shapeBuffer.append(1)`.
                value = [value]
            return whole(as_array(value, spec), spec)
        except ServingError as exc:
            raise exc.at(path) from exc.__cause__


def render(
    instances: Sequence[Sequence[Result]],
    *,
    form: PredictionForm = "json",
    post_process: PostProcessing | None = None,
) -> bytes:
    """Write the answer: one string per instance, in Jackson's layout.

    An instance with an error is FAILED; so is one that cannot be told.
    """
    predictions = []
    for results in instances:
        try:
            prediction = json.encode(_prediction(_text(results, post_process), form))
        except ServingError as exc:
            release(exc)
            prediction = json.encode(_prediction(FAILED, form))
        predictions.append(prediction)
    return b'{\n  "predictions" : [ %s ]\n}' % b", ".join(predictions)


def _prediction(text: str, form: PredictionForm) -> str:
    """`r._2`, a map of `value`, as text: Java's of a map until 0.9, JSON since 0.10."""
    if form == "map":
        return f"{{value={text}}}"
    return json.encode({"value": text}).decode()


def _text(results: Sequence[Result], post_process: PostProcessing | None) -> str:
    rows: list[Row] = []
    for result in results:
        if isinstance(result, ServingError):
            raise result
        rows.append(result)
    if not rows:
        raise PredictError("The instance has no items")
    outputs = [_instance_array(array, len(rows)) for array in named_arrays(rows).values()]
    if post_process is not None:
        # PostProcessing.scala: of a table, one text after the other.
        return "".join(post_process(_as_tensor(output)) for output in outputs)
    if len(outputs) == 1:
        return _output_text(outputs[0])
    # ArrowDeserializer.scala writes several outputs without anything between them, which nobody
    # can parse: they are a list here.
    return f"[{','.join(_output_text(output, is_quoted=True) for output in outputs)}]"


def _instance_array(array: Array, count: int) -> Any:
    """Return the output of one instance: without the batch axis, as `select(1, index)` leaves it,
    unless the instance was a stream of many items."""
    return array[0] if count == 1 else array


def _output_text(output: Any, *, is_quoted: bool = False) -> str:
    if isinstance(output, bytes | bytearray | memoryview):
        output = text_of(bytes(output))
    try:
        array = _as_tensor(output)
    except PredictError:
        # Python's json reads NaN and Infinity, as Scala writes them.
        if isinstance(output, str) and not is_quoted:
            return output
        return json.encode(output, with_nan=True).decode()
    fields = {"data": array.ravel(), "shape": list(array.shape)}
    return json.encode(fields, with_nan=True).decode()


def _as_tensor(output: Any) -> Array:
    """Return an output as Cluster Serving has all tensors, float32; integers and large numbers that
    it would change as they are.

    Raises:
        PredictError: it holds no numbers.
    """
    try:
        array = widened(exact_array(output))
    except ValueError:
        array = np.empty(0, object)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise PredictError("The result is no tensor", got=type(output).__name__)
    with np.errstate(over="ignore"):
        floats = array.astype(np.float32, copy=False)
    if array.dtype.kind == "f":
        is_same = bool((np.isinf(floats) == np.isinf(array)).all())
    else:
        extremes = [int(array.min()), int(array.max())] if array.size else []
        is_same = all(abs(each) <= EXACT_IN_FLOAT for each in extremes)
    return floats if is_same else array


def create_post_processing(declared: str | None) -> PostProcessing | None:
    """Return what `topN(n)` or `pickTopN(n)` does."""
    if declared is None:
        return None
    name, _, count = declared.rstrip(")").partition("(")
    return partial({"topN": top_n, "pickTopN": pick_top_n}[name], count=int(count))


def top_n(tensor: Array, count: int) -> str:
    """Write the largest elements of a tensor of any shape with their places in row-major order,
    from 0, largest first (rankTopN).

    There is no comma between the pairs. Of equals the first comes first.
    """
    flat = tensor.ravel()
    # Integers have no negative that is always there, but a complement.
    keys = -flat if flat.dtype.kind == "f" else ~flat
    places = np.argsort(keys, kind="stable")[:count]
    return f"[{''.join(f'[{place},{float_text(flat[place])}]' for place in places)}]"


def pick_top_n(tensor: Array, count: int) -> str:
    """Write the first rows of a matrix, which may stand in an axis of 1 more (pickTopN).

    Raises:
        PredictError: not a matrix, or one of fewer rows.
    """
    rows = tensor[0] if tensor.ndim == 3 and len(tensor) == 1 else tensor
    if rows.ndim != 2 or len(rows) < count:
        raise PredictError(
            "pickTopN does not fit", expected=f"{count} rows of 2 dimensions", got=str(tensor.shape)
        )
    texts = [",".join(map(float_text, row)) for row in rows[:count]]
    return f"[{''.join(f'[{text}]' for text in texts)}]"


def float_text(value: np.floating[Any] | np.integer[Any]) -> str:
    """Write a number as Java's `Float.toString` does: `1.0`, `0.1306194`, `1.0E-5`, `NaN`; an
    integer that is too large for that with all of its digits."""
    if isinstance(value, np.integer):
        return str(value)
    if np.isnan(value):
        return "NaN"
    if np.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return np.format_float_positional(value, unique=True, trim="0")
    text = np.format_float_scientific(value, unique=True, trim="0", exp_digits=1)
    return text.replace("e+", "E").replace("e", "E")


def pretty(value: Any, depth: int = 0) -> str:
    """Write JSON in Jackson's layout: a line per key of an object, arrays in a row."""
    if isinstance(value, dict) and value:
        indent = "  " * (depth + 1)
        lines = (
            f"{indent}{json.encode(key).decode()} : {pretty(each, depth + 1)}"
            for key, each in value.items()
        )
        return "{\n" + ",\n".join(lines) + "\n" + "  " * depth + "}"
    if isinstance(value, list):
        return f"[ {', '.join(pretty(each, depth) for each in value)} ]" if value else "[ ]"
    return json.encode(value).decode()
