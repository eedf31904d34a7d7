"""A graph of MXNet with its numbers, called with one batch at a time."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from threading import Lock
from typing import Any, Final

import numpy as np

from rayserve_app.errors import LoadError, PredictError, ShapeMismatch
from rayserve_app.types import Array

PARAMETER_SUFFIXES: Final = ("weight", "bias", "gamma", "beta", "_mean", "_var")
"""How MXNet's layers name what training finds (docs: Symbol.list_arguments)."""

MOST_SHAPES: Final = 4096
"""Of inputs, for which is remembered that they fit."""


class Graph:
    """A symbol whose parameters are bound; what is not bound is an input or a label.

    Labels are what a classifier was trained with: losses such as SoftmaxOutput stay in the graphs
    that `Module.save_checkpoint` writes. They change no answer, and are fed zeros.
    """

    def __init__(self, mx: Any, symbol: Any, parameters: Mapping[str, Any], context: Any) -> None:
        """Bind the parameters; those that the symbol has no place for are left out.

        Args:
            symbol: a `mx.sym.Symbol`, of one or several outputs.
            parameters: `mx.nd.NDArray`s by the names of the symbol's arguments.
            context: the device, where the parameters lie already.
        Raises:
            LoadError: parameters are missing.
        """
        self._mx = mx
        self._symbol = symbol
        self._context = context
        places: list[str] = symbol.list_inputs()
        bound = {name: parameters[name] for name in places if name in parameters}
        free = [name for name in places if name not in bound]
        _check_complete(symbol, free)
        self._labels = [name for name in free if name.endswith("_label")]
        self._arguments = [bound.get(name) for name in places]
        self._positions = {name: places.index(name) for name in free}
        self._parameter_shapes = {name: array.shape for name, array in bound.items()}
        dtypes, output_dtypes = self._infer_dtypes(bound)
        self.inputs = {name: dtypes[name] for name in free if name not in self._labels}
        """Types by name."""
        names = [name.removesuffix("_output") for name in symbol.list_outputs()]
        self.outputs = dict(zip(names, output_dtypes, strict=True))
        """Types by name."""
        # Without `static_alloc`, which made this twice as slow on a CPU: oneDNN then converts its
        # layouts around every operation. With `static_shape` as well it is as fast as without
        # both, but only while batches are of one size.
        self._operator = mx.nd.CachedOp(
            symbol,
            [
                ("data_indices", list(self._positions.values())),
                (
                    "param_indices",
                    [i for i, each in enumerate(self._arguments) if each is not None],
                ),
            ],
        )
        self._lock = Lock()  # a CachedOp takes one call at a time
        self._infer = lru_cache(MOST_SHAPES)(self._infer_shapes)

    def infer_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the outputs, and of labels, for those of all inputs, with the batch
        axis.

        Raises:
            ShapeMismatch: an operation of the graph does not take them; the sentence is MXNet's.
        """
        return self._infer(tuple(sorted(shapes.items())))

    def __call__(self, feed: Mapping[str, Array]) -> list[Array]:
        """Return the outputs in their order, for one array per input.

        Raises:
            ShapeMismatch: the graph does not take these shapes.
            PredictError: an operation failed.
        """
        mx = self._mx
        shapes = self.infer_shapes({name: array.shape for name, array in feed.items()})
        arguments = list(self._arguments)
        with self._lock:
            try:
                for name, array in feed.items():
                    arguments[self._positions[name]] = self._send(array)
                for name in self._labels:
                    arguments[self._positions[name]] = mx.nd.zeros(shapes[name], ctx=self._context)
                answer = self._operator(*arguments)
                answers = answer if isinstance(answer, list | tuple) else [answer]
                # Operations run in MXNet's threads, and an error of theirs surfaces here.
                return [each.asnumpy() for each in answers]
            except mx.base.MXNetError as exc:
                raise PredictError("The model failed", got=reason(exc)) from exc

    def close(self) -> None:
        """Wait for MXNet's threads and release the parameters."""
        self._mx.nd.waitall()
        self._arguments.clear()

    def _send(self, array: Array) -> Any:
        """Return a copy on the device. On a CPU `from_numpy` would save it, 0.4 ms for 5 MB beside
        150 ms of computing, at the price that MXNet's threads release the caller's memory."""
        sent = self._mx.nd.empty(array.shape, ctx=self._context, dtype=array.dtype)
        sent[:] = array
        return sent

    def _infer_dtypes(self, bound: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
        """Return the types of arguments and outputs, float32 where MXNet cannot tell."""
        symbol = self._symbol
        types = {name: array.dtype for name, array in bound.items()}
        arguments, outputs, _ = symbol.infer_type_partial(**types)
        names = symbol.list_arguments()
        known = zip(names, arguments or [None] * len(names), strict=True)
        unknown_outputs = [None] * len(symbol.list_outputs())
        return (
            {name: np.dtype(each or np.float32).name for name, each in known},
            [np.dtype(each or np.float32).name for each in outputs or unknown_outputs],
        )

    def _infer_shapes(
        self, shapes: tuple[tuple[str, tuple[int, ...]], ...]
    ) -> dict[str, tuple[int, ...]]:
        symbol = self._symbol
        try:
            arguments, outputs, _ = symbol.infer_shape(**dict(shapes), **self._parameter_shapes)
        except self._mx.base.MXNetError as exc:
            raise ShapeMismatch(
                "The array does not fit the model's input",
                expected=reason(exc),
                got=", ".join(f"{name} {shape}" for name, shape in shapes),
                path=shapes[0][0],
            ) from exc
        return dict(zip(symbol.list_arguments(), arguments, strict=True)) | dict(
            zip(self.outputs, outputs, strict=True)
        )


def select(symbol: Any, name: str, *, path: str) -> Any:
    """Return the symbol of one inner output, `relu1_output` or shorter `relu1`.

    Raises:
        LoadError: there is no such output; the sentence names those that are alike.
    """
    internals = symbol.get_internals()
    known = internals.list_outputs()
    for candidate in (name, f"{name}_output"):
        if candidate in known:
            return internals[candidate]
    raise unknown("The graph has no such output", name, known, path=path)


def unknown(problem: str, name: str, known: Sequence[str], *, path: str) -> LoadError:
    """Return the error for a name that is none of the known; of many those that are alike."""
    shown = sorted(known)
    if len(shown) > 12:
        shown = difflib.get_close_matches(name, shown, n=5, cutoff=0.4) or shown[:5]
    listed = ", ".join(f"`{each}`" for each in shown)
    more = f" ({len(known)} in all)" if len(known) > len(shown) else ""
    return LoadError(problem, expected=f"one of {listed}{more}", got=f"`{name}`", path=path)


def reason(exc: BaseException) -> str:
    """Return the line that says what went wrong: MXNet's errors begin with where it did."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    found = [line.removeprefix("MXNetError: ") for line in lines if line.startswith("MXNetError")]
    return (found or lines or [type(exc).__name__])[-1]


def _check_complete(symbol: Any, free: Sequence[str]) -> None:
    states = set(symbol.list_auxiliary_states())
    missing = [name for name in free if name in states or name.endswith(PARAMETER_SUFFIXES)]
    if missing:
        raise LoadError(
            "Parameters are missing",
            expected=f"one for each of the graph's {len(symbol.list_inputs())} arguments",
            got=f"none for {some(missing)}",
        )


def some(names: Sequence[str]) -> str:
    """Return the first of many names as a sentence needs them."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"`{name}`" for name in names[:3]) + more
