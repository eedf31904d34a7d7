"""One signature of a TensorFlow model: named tensors in, named tensors out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from deployments.tensorflow.sentences import first_line, listed
from rayserve_app.errors import InvalidRequest, LoadError, PredictError, ShapeMismatch
from rayserve_app.inference.backend import Predictor
from rayserve_app.inference.batch_arrays import stack
from rayserve_app.inference.named_inputs import check_one_shape, match_inputs
from rayserve_app.types import Array, Item, Metadata, TensorSpec, describe

Shapes: TypeAlias = Mapping[str, tuple[int, ...] | None]


class Function(NamedTuple):
    """What a loaded model can be called through."""

    call: Callable[[dict[str, Any]], Mapping[str, Any]]
    """From tensors by name to tensors by name."""
    inputs: Mapping[str, Any]
    """A `tf.TensorSpec` of each input, the batch axis first."""
    outputs: Mapping[str, Any]
    """A `tf.TensorSpec` of each output."""
    owner: Any
    """The model: functions only borrow its variables."""


class Batching(NamedTuple):
    """What axis 0 of a signature's tensors is: TensorFlow does not say, but shapes do."""

    size: int
    """How many items one call takes; 0 for any number."""
    inputs: frozenset[str]
    """The inputs without a batch axis, which hold for a whole call."""
    outputs: frozenset[str]
    """The outputs without one, which a call answers once."""

    @classmethod
    def of(cls, inputs: Shapes, outputs: Shapes) -> Batching:
        """Tell from the shapes of all inputs and outputs, None for unknown ranks."""
        lengths = {
            name: -1 if shape is None else shape[0] for name, shape in inputs.items() if shape != ()
        }
        answered = {-1 if shape is None else shape[0] for shape in outputs.values() if shape != ()}
        is_free, fixed = -1 in lengths.values(), set(lengths.values()) - {-1}
        size = 0
        if len(fixed) == 1:
            # It is a batch's length if an output has it too, or may have it.
            (length,) = fixed
            is_size = length == 1 or length in answered or (not is_free and -1 in answered)
            size = length if is_size else 0
        if not (size or is_free):
            return cls(1, frozenset(inputs), frozenset(outputs))
        batched = {name for name, length in lengths.items() if length in (-1, size)}
        whole = {
            name
            for name, shape in outputs.items()
            if shape is not None and shape[:1] not in ((-1,), (size,))
        }
        return cls(size, frozenset(inputs.keys() - batched), frozenset(whole))


class Signature(Predictor):
    """Runs batches of items through one function.

    An item is a tensor (or, for DT_STRING, a string) where the signature has one input, and a
    mapping of input name to tensor where it has several; none carries the batch axis. Items are
    stacked along axis 0, whatever batch size the signature was traced with: one that fixes it to
    k runs in pieces of k items, the last one padded with its own last item. Items share a call only
    if they have the same values of inputs that hold for a whole call.
    """

    def __init__(
        self, tf: Any, name: str, function: Function, *, outputs: tuple[str, ...] = ()
    ) -> None:
        """Read the specifications.

        Args:
            outputs: which outputs to answer, in this order; empty for all.
        Raises:
            LoadError: there is no such output.
        """
        self._tf = tf
        self._function = function
        names = outputs or tuple(function.outputs)
        for each in names:
            if each not in function.outputs:
                raise LoadError(
                    f"Signature `{name}` has no such output",
                    expected=listed(function.outputs, "one of "),
                    got=f"`{each}`",
                    path="outputs",
                )
        self._batching = batching = Batching.of(
            {each: _shape(spec) for each, spec in function.inputs.items()},
            {each: _shape(function.outputs[each]) for each in names},
        )
        self._inputs = {
            each: _Input.of(each, spec, has_batch_axis=each not in batching.inputs)
            for each, spec in function.inputs.items()
        }
        self._metadata = Metadata(
            "tensorflow",
            inputs=tuple(
                _tensor_spec(each, spec, each not in batching.inputs)
                for each, spec in function.inputs.items()
            ),
            outputs=tuple(
                _tensor_spec(each, function.outputs[each], each not in batching.outputs)
                for each in names
            ),
        )

    def predict(self, items: Sequence[Item]) -> dict[str, Array]:
        """Run one batch.

        Returns: the chosen outputs by name, in their order, axis 0 being the items: each has its
            call's of an output without a batch axis. Numbers are TensorFlow's own memory, read-only
            and not copied; DT_STRING comes as `bytes` in object arrays.
        Raises:
            ShapeMismatch: an item's inputs, types or shapes are not the signature's; the path is
                the input's name.
            PredictError: the graph failed, or answered something without the batch axis.
        """
        rows = [self._row(item) for item in items]
        size = self._piece_size(rows)
        pieces = [self._call(rows[start : start + size]) for start in range(0, len(rows), size)]
        if len(pieces) == 1:
            return pieces[0]
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Run whole tensors in one call, as they are: nothing is cut to pieces or padded.

        Args:
            feed: a tensor for each input, with the batch axis that the signature has.

        Returns: the chosen outputs by name, in their order, each as the graph gives it, of whatever
            shape. Their memory and DT_STRING as `predict` has them.
        Raises:
            ShapeMismatch: the tensors, their types or shapes are not the signature's; the path is
                the input's name.
            InvalidRequest: the graph refuses their values.
            PredictError: the graph failed.
        """
        feed = match_inputs(feed, self._inputs)
        return self._execute({name: each.fit(feed[name]) for name, each in self._inputs.items()})

    def metadata(self) -> Metadata:
        """Describe the signature; an input or output of unknown rank has the shape ()."""
        return self._metadata

    def bucket(self, item: Item) -> Hashable:
        """Return a key of shapes, types and the values of inputs that hold for a whole call."""
        whole = self._batching.inputs
        key = super().bucket(item)
        if not whole or not isinstance(item, Mapping):
            return key
        return key, tuple(np.asarray(item.get(name)).tobytes() for name in whole)

    def _piece_size(self, rows: Sequence[Mapping[str, Array]]) -> int:
        """Return how many items share a call."""
        whole, first = self._batching.inputs, rows[0]
        if any(not np.array_equal(row[name], first[name]) for row in rows[1:] for name in whole):
            return 1
        return self._batching.size or len(rows)

    def _row(self, item: Item) -> dict[str, Array]:
        """Return an item's checked value for each input, without the batch axis."""
        if isinstance(item, Mapping):
            item = self._with_image(item)
        values = match_inputs(item, self._inputs)
        return {name: each.check(values[name]) for name, each in self._inputs.items()}

    def _with_image(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        """Of an image with metadata, take the pixels for the one input that the metadata does not
        name, and drop what no input is called."""
        missing = self._inputs.keys() - item.keys()
        if "data" not in item or "data" in self._inputs or len(missing) != 1:
            return item
        known = {name: value for name, value in item.items() if name in self._inputs}
        return {**known, missing.pop(): item["data"]}

    def _call(self, rows: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        padding = max(self._batching.size - len(rows), 0)
        padded = [*rows, *[rows[-1]] * padding]
        outputs = self._execute(
            {name: each.stack([row[name] for row in padded]) for name, each in self._inputs.items()}
        )
        for name in self._batching.outputs:
            outputs[name] = np.broadcast_to(outputs[name], (len(padded), *outputs[name].shape))
        for name, array in outputs.items():
            if array.shape[:1] != (len(padded),):
                raise PredictError(
                    "An output lacks the batch axis",
                    expected=f"{len(padded)} along axis 0",
                    got=describe(array),
                    path=name,
                )
        return {name: array[: len(rows)] for name, array in outputs.items()}

    def _execute(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Call the function with arrays of its inputs' types and shapes."""
        try:
            tensors = {name: self._tf.convert_to_tensor(array) for name, array in feed.items()}
            answers = self._function.call(tensors)
            # `asarray` shares a tensor's memory where `.numpy()` would copy it; it stands inside
            # `try` because a GPU's errors surface only here.
            return {spec.name: np.asarray(answers[spec.name]) for spec in self._metadata.outputs}
        except self._tf.errors.InvalidArgumentError as exc:
            # TensorFlow Serving calls it the caller's fault as well: 400 (api_rest.md).
            raise InvalidRequest("The model refuses the input", got=first_line(exc)) from exc
        except self._tf.errors.OpError as exc:
            raise PredictError(
                "The model failed", got=f"{type(exc).__name__}: {first_line(exc)}"
            ) from exc


class _Input(NamedTuple):
    """One input of a signature."""

    name: str
    dtype: np.dtype[Any]  # object for DT_STRING
    shape: tuple[int, ...] | None  # as TensorFlow has it, -1 where unknown; None for unknown rank
    has_batch_axis: bool  # which comes first

    @classmethod
    def of(cls, name: str, spec: Any, *, has_batch_axis: bool) -> _Input:
        return cls(name, np.dtype(spec.dtype.as_numpy_dtype), _shape(spec), has_batch_axis)

    @property
    def item_shape(self) -> tuple[int, ...] | None:
        if self.shape is None:
            return None
        return self.shape[1:] if self.has_batch_axis else self.shape

    def describe(self, *, batched: bool = False) -> str:
        dtype = "string" if self.dtype == object else self.dtype.name
        if self.shape is None:
            return f"{dtype} of any shape"
        return f"{dtype} {self.shape if batched else self.item_shape}"

    def check(self, value: Any) -> Array:
        """Return one item's value as an array that fits `item_shape`, its type still to be cast."""
        if isinstance(value, bytearray | memoryview):
            value = bytes(value)
        is_string = isinstance(value, bytes | str)
        # numpy's own string types lose zero bytes at the end.
        array = np.asarray(value, dtype=object if is_string else None)
        if not (self._takes_type_of(array) and _takes_shape_of(self.item_shape, array)):
            raise self._misfit("a string" if is_string else describe(array))
        return array

    def fit(self, tensor: Array) -> Array:
        """Return a whole tensor, the batch axis included, as one of the input's type."""
        if not (self._takes_type_of(tensor) and _takes_shape_of(self.shape, tensor)):
            raise self._misfit(describe(tensor), batched=True)
        return tensor.astype(self.dtype, copy=False)

    def stack(self, arrays: Sequence[Array]) -> Array:
        """Return one item's array each, of one shape, as a batch (N, …) of the input's type; one
        alone as a view, and of what holds for all of them the first."""
        if not self.has_batch_axis:
            return arrays[0].astype(self.dtype, copy=False)
        if len(arrays) == 1:
            return arrays[0].astype(self.dtype, copy=False)[None]
        check_one_shape(arrays, self.name)
        if arrays[0].dtype == self.dtype and len({array.dtype for array in arrays}) == 1:
            return stack(list(arrays))
        return np.stack(arrays, dtype=self.dtype, casting="unsafe")

    def _misfit(self, got: str, *, batched: bool = False) -> ShapeMismatch:
        return ShapeMismatch(
            "The tensor does not fit the model's input",
            expected=self.describe(batched=batched),
            got=got,
            path=self.name,
        )

    def _takes_type_of(self, array: Array) -> bool:
        """Tell whether the values survive the cast: JSON's numbers come as int64 or float64, so
        floats may lose precision and integers may narrow, if they stay what they are."""
        if self.dtype == array.dtype != object:
            return True
        if self.dtype == object:
            return array.dtype.kind in "SU" or all(isinstance(x, bytes | str) for x in array.flat)
        if self.dtype.kind in "iu" and array.dtype.kind in "iu" and array.size:
            limits = np.iinfo(self.dtype)
            return bool(limits.min <= int(array.min()) and int(array.max()) <= limits.max)
        return np.can_cast(array.dtype, self.dtype, "same_kind")


def _takes_shape_of(dims: tuple[int, ...] | None, array: Array) -> bool:
    if dims is None:
        return True
    return len(dims) == array.ndim and all(
        dim in (-1, size) for dim, size in zip(dims, array.shape, strict=True)
    )


def _shape(spec: Any) -> tuple[int, ...] | None:
    if spec.shape.rank is None:
        return None
    return tuple(-1 if size is None else int(size) for size in spec.shape)


def _tensor_spec(name: str, spec: Any, has_batch_axis: bool) -> TensorSpec:
    shape = _shape(spec)
    return TensorSpec(name, spec.dtype.name, shape or (), has_batch_axis or shape is None)
