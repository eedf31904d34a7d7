"""What a closure's YAML says of its outputs, and results held to it.

Without it, metadata tells of a closure's outputs what its warm-up or its last answer showed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field

from rayserve_app.errors import PredictError
from rayserve_app.settings.model import OutputSettings
from rayserve_app.settings.section import Section
from rayserve_app.types import Array, Outputs, TensorSpec, describe


def _check_dtype(value: str) -> str:
    try:
        is_known = value == "string" or np.dtype(value).kind in "biuf"
    except TypeError:
        is_known = False
    if not is_known:
        raise ValueError("neither a numpy type of numbers nor 'string'")
    return value if value == "string" else np.dtype(value).name


class OutputTensor(Section):
    """One output, an array per item."""

    dtype: Annotated[str, AfterValidator(_check_dtype)]
    """numpy's name of the type, or `string`."""
    shape: tuple[int, ...] = ()
    """One item's shape, -1 for any length."""


class ClosureOutput(OutputSettings):
    """How results are written, and what they are."""

    tensors: dict[str, OutputTensor] = Field(default_factory=dict)
    """What the function answers, by name: a mapping of these names, or for one name its list or
    array. What it returns becomes arrays of these types, or is an error."""

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(name, each.dtype, (-1, *each.shape)) for name, each in self.tensors.items()
        )


def conform(outputs: Outputs, specs: Sequence[TensorSpec]) -> Outputs:
    """Return a function's results as the named arrays that its YAML says.

    Raises:
        PredictError: they are something else; or what a result is that is an exception, so that
            its batch is tried in halves.
    """
    if not specs:
        return outputs
    if not isinstance(outputs, Mapping):
        if len(specs) > 1:
            raise PredictError("The function names no outputs", expected=_names(specs))
        for value in outputs:
            if isinstance(value, Exception):
                raise value
        outputs = {specs[0].name: outputs}  # type: ignore[dict-item]  # made an array below
    if outputs.keys() != {spec.name for spec in specs}:
        got = ", ".join(sorted(map(str, outputs)))
        raise PredictError("Other outputs than declared", expected=_names(specs), got=got)
    return {spec.name: _as(spec, outputs[spec.name]) for spec in specs}


def _as(spec: TensorSpec, values: Array | Sequence[object]) -> Array:
    is_text = spec.dtype == "string"
    try:
        array: Array = np.array(values, dtype=object) if is_text else np.asarray(values)
    except ValueError as exc:
        raise PredictError(
            "Results of unlike shapes", expected=_text(spec), path=spec.name
        ) from exc
    shape = spec.shape[1:]
    fits = array.ndim == len(spec.shape) and all(
        own in (-1, size) for own, size in zip(shape, array.shape[1:], strict=True)
    )
    if not fits or not (is_text or np.can_cast(array.dtype, spec.dtype, "same_kind")):
        raise PredictError(
            "Not the output that is declared",
            expected=_text(spec),
            got=describe(array),
            path=spec.name,
        )
    return array if is_text else array.astype(spec.dtype, copy=False)


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(sorted(spec.name for spec in specs))


def _text(spec: TensorSpec) -> str:
    sizes = ", ".join("*" if size == -1 else str(size) for size in spec.shape[1:])
    return f"{spec.dtype} (items{', ' if sizes else ''}{sizes})"
