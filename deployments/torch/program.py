"""What a torch.export archive says of its inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from rayserve_app.errors import LoadError
from rayserve_app.payloads.tensors import fit
from rayserve_app.types import Array, TensorSpec

SPECIALIZED: Final = 2
"""Lower bound of dimensions that were declared without one; one item runs nevertheless."""


class Program:
    """The signature of one ExportedProgram.

    A program that was exported for a certain number of items, or for a range of them, is called
    with `least_items` to `most_items` (0 for any number).
    """

    def __init__(self, program: Any, name_outputs: Callable[[Any], Mapping[str, Any]]) -> None:
        """Read the signature.

        Args:
            program: an `ExportedProgram`.
            name_outputs: maps what a call answers to tensors by name.
        Raises:
            LoadError: inputs other than tensors, or of unlike numbers of items.
        """
        import torch
        from torch.utils import _pytree

        values = {node.name: node.meta.get("val") for node in program.graph.nodes}
        call = program.call_spec
        nodes = list(program.graph_signature.user_inputs)
        args, kwargs = _pytree.tree_unflatten(nodes, call.in_spec)
        named = {name: name for name in args if isinstance(name, str)} | kwargs
        if len(named) != len(nodes) or not all(
            isinstance(node, str) and isinstance(values.get(node), torch.Tensor)
            for node in named.values()
        ):
            raise LoadError(
                "The program takes more than tensors",
                expected="a tensor for each argument",
                got=f"arguments {args}, {kwargs}",
                path="args.model.path",
            )
        inputs = {name: values[node] for name, node in named.items()}
        self._args, self._kwargs = args, kwargs
        self._dtypes = {name: value.dtype for name, value in inputs.items()}
        self._specs = {name: _spec(name, value) for name, value in inputs.items()}
        self.inputs = tuple(self._specs.values())
        results = [values.get(node) for node in program.graph_signature.user_outputs]
        answers = name_outputs(_pytree.tree_unflatten(results, call.out_spec))
        self.outputs = tuple(_spec(name, value) for name, value in answers.items())
        self.least_items, self.most_items = _batch_sizes(inputs, program.range_constraints)

    def row(self, values: Mapping[str, Any], *, is_pixels: bool = False) -> dict[str, Array]:
        """Return an item's checked array for each input, without the batch axis.

        Args:
            is_pixels: they stay uint8, for they become what the program takes on its device.
        Raises:
            ShapeMismatch: other types or shapes.
        """
        specs = self._specs
        if is_pixels:
            specs = {name: spec._replace(dtype="uint8") for name, spec in specs.items()}
        return {name: fit(np.asarray(values[name]), spec) for name, spec in specs.items()}

    def bind(self, feed: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return batches by input as the arguments that the program was exported with."""
        cast = {name: batch.to(self._dtypes[name]) for name, batch in feed.items()}
        scalars = {name for name, spec in self._specs.items() if not spec.shape}
        cast |= {name: cast[name][0] for name in scalars}
        return [cast[name] for name in self._args], {name: cast[name] for name in self._kwargs}


def _spec(name: str, value: Any) -> TensorSpec:
    """Describe a tensor as it is sent and answered: halves as float32, batch axis first."""
    dtype = str(value.dtype).removeprefix("torch.")
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    dtype = "float32" if dtype in ("bfloat16", "float16") else dtype
    return TensorSpec(name, dtype, shape, has_batch_axis=bool(shape))


def _batch_sizes(inputs: Mapping[str, Any], ranges: Mapping[Any, Any]) -> tuple[int, int]:
    """Return how many items one call takes at least, and at most (0 for any number): what fits all
    inputs. A scalar input holds for a whole call, so that each item needs its own."""
    bounds = [_bounds(value, ranges) for value in inputs.values()]
    least = max((low for low, _ in bounds), default=1)
    most = min((high for _, high in bounds if high), default=0)
    if most and most < least:
        raise LoadError(
            "The program cannot be batched",
            expected="inputs of one number of items along axis 0",
            got=", ".join(f"{name} {tuple(value.shape)}" for name, value in inputs.items()),
            path="args.model.path",
        )
    return least, most


def _bounds(value: Any, ranges: Mapping[Any, Any]) -> tuple[int, int]:
    if not value.shape:
        return 1, 1
    size = value.shape[0]
    if isinstance(size, int):
        return size, size
    bound = ranges.get(size.node.expr)
    if bound is None:
        return 1, 0
    least = int(bound.lower)
    most = int(bound.upper) if bound.upper.is_Integer else 0
    return (least if least > SPECIALIZED else 1), most
