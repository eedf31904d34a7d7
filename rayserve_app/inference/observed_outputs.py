"""What a model's outputs are, as its answers show, where the model itself does not say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rayserve_app.inference.servables import Servable
from rayserve_app.types import Array, TensorSpec


class ObservedOutputs:
    """The outputs of the signatures of a model, by what they last answered."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], tuple[TensorSpec, ...]] = {}

    def of(self, servable: Servable) -> tuple[TensorSpec, ...]:
        """Return the outputs: what the model says, else what was seen; nothing before that."""
        key = (servable.version, servable.signature)
        return servable.metadata.outputs or self._seen.get(key, ())

    def add(self, servable: Servable, columns: Mapping[str, Sequence[Array]]) -> None:
        """See an answer: by output its arrays, items along axis 0.

        Lengths that differ from those seen before are any length from then on, so that the shape
        holds for every answer; a type is the last one.
        """
        if servable.metadata.outputs:
            return
        key = (servable.version, servable.signature)
        before = {spec.name: spec for spec in self._seen.get(key, ())}
        found = tuple(_spec(name, runs[0], before.get(name)) for name, runs in columns.items())
        if found != self._seen.get(key):
            self._seen[key] = found


def _spec(name: str, array: Array, before: TensorSpec | None) -> TensorSpec:
    dtype = "string" if array.dtype.kind in "OSU" else array.dtype.name
    shape = array.shape[1:]
    if before is not None and before.shape[1:] != shape and before.dtype == dtype:
        if len(before.shape) != len(shape) + 1:
            return TensorSpec(name, dtype, ())
        pairs = zip(before.shape[1:], shape, strict=True)
        shape = tuple(own if own == other else -1 for own, other in pairs)
    return TensorSpec(name, dtype, (-1, *shape))
