"""Arrays on their way to a model: nested lists, `.npy`, and mappings of input name to array."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from rayserve_app.errors import DecodeError, ShapeMismatch
from rayserve_app.payloads.tensors import as_array, fit, shape_text, whole
from rayserve_app.settings.model import InputSettings
from rayserve_app.types import Array, TensorSpec, describe

VECTOR_DTYPES: Final = {"integers": np.int32, "floats": np.float32, "doubles": np.float64}


class TensorInputs:
    """Reads arrays for one model: its one input's, or those of all inputs."""

    def __init__(
        self,
        settings: InputSettings,
        specs: Sequence[TensorSpec],
        check_count: Callable[[int], None],
    ) -> None:
        """
        Args:
            specs: the model's inputs, if it says them itself.
            check_count: raises RequestTooLarge for more items than one request may carry.
        """
        self.specs = {spec.name: spec for spec in specs}
        self.spec = _only_spec(settings, specs)
        self._check_count = check_count

    def one(self, value: Any) -> Array:
        """Return one item of the one input."""
        return fit(as_array(value, self.spec), self.spec)

    def row(self, values: Sequence[float | str]) -> Array:
        """Return one item that is a row of CSV."""
        return fit(whole(as_array(values, self.spec), self.spec), self.spec)

    def split(self, array: Array, path: str) -> tuple[list[Array], bool]:
        """Return the items of an array, which is one, or many along an axis more; and whether it
        was many."""
        rank = len(self.spec.item_shape)
        if not self.spec.is_known or array.ndim == rank:
            return [fit(array, self.spec)], False
        if array.ndim != rank + 1:
            raise ShapeMismatch(
                "Wrong rank",
                expected=shape_text(self.spec),
                got=describe(array),
                path=path or self.spec.name,
            )
        return self._rows(array), True

    def nested(self, value: Any, path: str) -> tuple[list[Array], bool]:
        """Return the items of a nested list, as `split` does of an array; rows of unlike length
        are many."""
        try:
            return self.split(as_array(value, self.spec), path)
        except (DecodeError, ShapeMismatch):
            if not isinstance(value, list) or not value or not isinstance(value[0], list):
                raise
        self._check_count(len(value))
        items = []
        for index, element in enumerate(value):
            try:
                items.append(self.one(element))
            except (DecodeError, ShapeMismatch) as exc:
                raise exc.at(f"{path}[{index}]") from exc.__cause__
        return items, True

    def column(self, value: Any, path: str) -> tuple[list[Array], bool]:
        """Return the items of what a protocol with named inputs sends for the one input: as
        `nested` does, but of unknown shape axis 0 counts them."""
        if self.spec.is_known:
            return self.nested(value, path)
        array = as_array(value, self.spec)
        return (self._rows(array), True) if array.ndim else ([fit(array, self.spec)], False)

    def mapping(self, value: Any) -> dict[str, Array]:
        """Return one item that is a mapping of input name to array."""
        if not isinstance(value, Mapping):
            raise DecodeError(
                "Not a mapping of input names", expected="an object", got=type(value).__name__
            )
        if self.specs and set(value) != set(self.specs):
            raise ShapeMismatch(
                "Wrong input names", expected=str(sorted(self.specs)), got=str(sorted(value))
            )
        return {name: self._element(name, element) for name, element in value.items()}

    def rows_of(self, columns: Mapping[str, Any], path: str) -> list[dict[str, Array]]:
        """Return the items of named columns, whose axis 0 counts the items; those of inputs
        without a batch axis hold for all of them.

        Raises:
            ShapeMismatch: columns of unlike length; otherwise as for `mapping`.
        """
        specs = {name: self.specs.get(name, TensorSpec(name, "", ())) for name in columns}
        arrays = {name: as_array(value, specs[name]) for name, value in columns.items()}
        lengths = {
            len(array) if array.ndim else -1
            for name, array in arrays.items()
            if specs[name].has_batch_axis
        }
        if arrays and not lengths:
            lengths = {1}
        if len(lengths) != 1 or lengths == {-1}:
            raise ShapeMismatch(
                "Inputs of unlike length",
                expected="one number of items, along axis 0",
                got=", ".join(f"{name} {describe(array)}" for name, array in arrays.items()),
                path=path,
            )
        count = lengths.pop()
        self._check_count(count)
        rows = [
            array if specs[name].has_batch_axis else [array] * count
            for name, array in arrays.items()
        ]
        return [
            self.mapping(dict(zip(arrays, row, strict=True))) for row in zip(*rows, strict=True)
        ]

    def _rows(self, array: Array) -> list[Array]:
        self._check_count(len(array))
        # Each an array, if only of one string.
        return [fit(array[index, ...], self.spec) for index in range(len(array))]

    def _element(self, name: str, value: Any) -> Array:
        spec = self.specs.get(name, TensorSpec(name, "", ()))
        return fit(as_array(value, spec), spec)


def _only_spec(settings: InputSettings, specs: Sequence[TensorSpec]) -> TensorSpec:
    """Return what one array of this model is: Clipper's vectors, else what the YAML says, else what
    the model says of its one input."""
    if settings.type in VECTOR_DTYPES:
        return TensorSpec("input", np.dtype(VECTOR_DTYPES[settings.type]).name, (-1, -1))
    declared = next(iter(specs), TensorSpec("input", "", ()))
    if settings.shape is not None:
        declared = TensorSpec(declared.name, declared.dtype, (-1, *settings.shape))
    return declared._replace(dtype=settings.dtype or declared.dtype)
