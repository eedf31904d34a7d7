"""Closures: a Python function of a batch, as Clipper's Python closure container calls it.

Source: ucbrise/clipper, containers/python/rpc.py and python_closure_container.py, commit 9f25e3f.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Self

import numpy as np
from pydantic import model_validator

from deployments.closure.outputs import ClosureOutput, conform
from deployments.replica.application import Application, build_application
from rayserve_app.artifacts import packages
from rayserve_app.artifacts.requirements import Requirements, Strictness
from rayserve_app.artifacts.sources import fetch
from rayserve_app.codecs.plain_values import PLAIN, as_numpy, exact_array
from rayserve_app.errors import (
    ConfigurationError,
    DecodeError,
    LoadError,
    PredictError,
    ServingError,
)
from rayserve_app.importing import import_from_string
from rayserve_app.inference.backend import Backend
from rayserve_app.inference.batch_arrays import stack
from rayserve_app.settings.model import Checksum, ModelSettings, parse_settings
from rayserve_app.types import Array, Item, Metadata, Outputs, describe

READERS: Final = {("PIL.Image", "open"), ("PIL.ImageFile", "load")}
"""Where Pillow reads what it was given; what it raises there is of many kinds."""


class ClosureSettings(ModelSettings):
    """A closure is named by `function`, or lies in the file `pickle`."""

    output: ClosureOutput = ClosureOutput()
    function: str | None = None
    """`package.module:function`, importable in the replica."""
    pickle: str | None = None
    """A file that cloudpickle wrote, here or at a URL. Reading it runs whatever its writer put
    there."""
    sha256: Checksum | None = None
    """Of the file `pickle`; another content is not read."""
    trusted: bool = False
    """Allows `pickle` for this model."""
    packages: Requirements = ()
    """pip requirements of the function's own, e.g. `humanize==4.9.0`: installed once per machine,
    seen by this model's replicas alone, and before what is installed for all. What is installed
    for all and satisfies them is left alone."""
    requirements: Strictness = "lenient"
    """Whether a version in `packages` that no index has for this Python may be another one."""
    instant: bool = False
    """Calls the function in the event loop, which saves the way to a thread and back: for one that
    takes microseconds. Should it hang, its callers get no default output at their deadline; Serve
    replaces the replica after three failed health checks."""

    @model_validator(mode="after")
    def _names_one_function(self) -> Self:
        if (self.function is None) == (self.pickle is None):
            raise ValueError("expected one of 'function' and 'pickle'")
        if self.pickle is not None and not self.trusted:
            raise ValueError("'pickle' runs code from a file: it needs 'trusted: true'")
        if self.sha256 is not None and self.pickle is None:
            raise ValueError("'sha256' is for 'pickle'")
        return self


def build(args: dict[str, Any]) -> Application:
    """Return the application of a closure; `args` is the YAML's, with one key, `model`."""
    settings = parse_settings(ClosureSettings, args)
    return build_application(settings, partial(ClosureBackend, settings))


class ClosureBackend(Backend):
    """Calls the function with one batch at a time."""

    def __init__(self, settings: ClosureSettings) -> None:
        self._settings = settings
        self._outputs = settings.output.specs
        self.is_instant = settings.instant
        self._function: Callable[[Any], Any] | None = None

    def load(self) -> None:
        settings = self._settings
        if settings.packages:
            _add_packages(settings.packages, settings.requirements)
        if settings.pickle is not None:
            function = _unpickle(settings.pickle, settings.sha256)
        else:
            function = _import(settings.function or "")
        if not callable(function):
            raise LoadError("Not a function", got=type(function).__name__)
        self._function = function

    def predict(self, items: Sequence[Item]) -> Outputs:
        if self._function is None:
            raise PredictError("The function is not loaded")
        try:
            outputs = _as_outputs(self._function(self._arguments(items)))
        except Exception as exc:
            if self._settings.input.type in ("bytes", "string") and _is_of_an_image(exc):
                # Pillow names the object that it reads from, too.
                problem = str(exc).partition(" <")[0]
                raise DecodeError(f"The image cannot be read: {problem}") from exc
            raise
        return conform(outputs, self._outputs)

    def metadata(self) -> Metadata:
        return Metadata(platform="python-closure", outputs=self._outputs)

    def close(self) -> None:
        self._function = None

    def _arguments(self, items: Sequence[Any]) -> Any:
        """Return the batch as the closure receives it.

        Bytes and numbers of equal length: a 2-D array (n, d), of int8 for bytes; of unlike length:
        a 1-D object array of 1-D arrays. Strings: a 1-D object array (rpc.py, handle_predict).
        Images and tensors, which Clipper has not: one array (n, ...), or per name; images with
        metadata: a list of mappings.
        """
        kind = self._settings.input.type
        if kind == "string":
            return _objects([self._string(item) for item in items])
        if isinstance(items[0], Mapping):
            return _stack_named(items) if kind == "tensors" else list(items)
        if kind == "bytes":
            return _vectors([np.frombuffer(item, np.int8) for item in items])
        if kind in ("integers", "floats", "doubles"):
            return _vectors(items)
        return stack(list(items))

    def _string(self, item: str) -> str | bytes:
        return item.encode() if self._settings.input.strings_as == "bytes" else item

    def bucket(self, item: Item) -> Any:
        """Vectors and encoded images of any length meet, as they do in Clipper."""
        if self._settings.input.type in ("image", "tensor", "tensors"):
            return super().bucket(item)
        return None


def _stack_named(items: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    return {name: stack([item[name] for item in items]) for name in items[0]}


def _vectors(rows: Sequence[Array]) -> Array:
    if len(rows) == 1:
        # What the caller does not own is copied, as it is in a batch of several.
        return (rows[0] if rows[0].flags.writeable else rows[0].copy())[None]
    if len({len(row) for row in rows}) == 1:
        return stack(list(rows))
    return _objects(rows)


def _objects(values: Sequence[Any]) -> Array:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _as_outputs(result: Any) -> Outputs:
    result = as_numpy(result)
    if isinstance(result, Mapping):
        return {str(name): _column(name, values) for name, values in result.items()}
    if isinstance(result, str | bytes) or not hasattr(result, "__iter__"):
        raise PredictError(
            "The function returned no list",
            expected="one result per item",
            got=type(result).__name__,
        )
    return [value if type(value) in PLAIN else _item(value) for value in result]


def _column(name: Any, values: Any) -> Array:
    """Return what a function returns for one output, axis 0 being the items; of unlike shapes an
    array of objects."""
    try:
        array = exact_array(as_numpy(values))
    except ValueError:
        array = _objects([as_numpy(value) for value in values])
    if not array.ndim:
        raise PredictError(
            "The function returned no list",
            expected="one per item",
            got=describe(array),
            path=str(name),
        )
    return array


def _item(value: Any) -> Any:
    """Return one item's result, tensors as arrays already here: the event loop shall not wait for a
    GPU."""
    try:
        return as_numpy(value)
    except Exception as exc:
        kind = type(value).__qualname__
        error = PredictError(f"A result cannot become an array: {exc}", got=kind)
        error.__cause__ = exc
        return error


def _is_of_an_image(exc: Exception) -> bool:
    """Return whether Pillow raised this as it opened or loaded an image, which is then the
    caller's: not for a file that the function has named itself."""
    if getattr(exc, "errno", None) is not None:
        return False
    frames = traceback.walk_tb(exc.__traceback__)
    places = {(frame.f_globals.get("__name__"), frame.f_code.co_name) for frame, _ in frames}
    return not places.isdisjoint(READERS)


def _import(import_string: str) -> Any:
    try:
        return import_from_string(import_string, path="args.model.function")
    except ConfigurationError:
        raise
    except Exception as exc:
        raise LoadError(
            f"The closure's module fails to import: {type(exc).__name__}: {exc}",
            path="args.model.function",
        ) from exc


def _add_packages(requirements: Requirements, strictness: Strictness) -> None:
    try:
        packages.activate(packages.install(requirements, strictness=strictness))
    except ServingError as exc:
        raise exc.at("args.model.packages") from exc


def _unpickle(location: str, sha256: str | None) -> Any:
    import cloudpickle

    try:
        path = fetch(location, sha256=sha256)
    except ServingError as exc:
        raise exc if exc.path else exc.at("args.model.pickle") from exc
    if path.is_dir():
        raise LoadError(f"Not a file: {path.absolute()}", path="args.model.pickle")
    try:
        return cloudpickle.loads(path.read_bytes())
    except Exception as exc:
        raise LoadError(
            f"{path} is not a closure that loads here: {type(exc).__name__}: {exc}",
            path="args.model.pickle",
        ) from exc
