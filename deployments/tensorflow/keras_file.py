"""Keras 3 files, `.keras`: a configuration of layers and their weights.

What such a file may run when it is read: a `Lambda` layer is Python bytecode, and a custom object
is code of whatever module it names. Source: keras/src/saving/serialization_lib.py of Keras 3.15.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple
from zipfile import BadZipFile, ZipFile

from deployments.tensorflow.sentences import first_line, listed
from deployments.tensorflow.signature import Function
from rayserve_app.errors import LoadError, MissingDependency
from rayserve_app.inference.backend import DEFAULT_SIGNATURE

SUFFIX: Final = ".keras"

_OWN_MODULES: Final = {"keras", "keras_hub", "keras_cv", "keras_nlp", "builtins"}
"""Packages of which Keras itself takes layers and functions, and nothing else."""


def load(tf: Any, path: Path, *, trusted: bool) -> dict[str, Function]:
    """Return the one signature of a Keras file, its inputs and outputs named as the model's
    tensors are.

    Args:
        trusted: whether code may run that the file holds or names.
    Raises:
        LoadError: the file cannot be read, or needs trust.
    """
    config = _read_config(path)
    if isinstance(config, dict):
        config.pop("compile_config", None)  # a loss or a metric is no part of what is served
    custom = list(_custom_objects(config))
    if custom and not trusted:
        raise LoadError(
            f"`{path}` needs code that is not Keras's own",
            got=listed(sorted({each.text for each in custom})),
            remedy="If you trust whoever wrote it: `trusted: true`.",
        )
    keras = _import()
    try:
        objects = {name: found for each in custom for name, found in each.find().items()}
        model = keras.models.load_model(
            path, compile=False, safe_mode=not trusted, custom_objects=objects
        )
        return {DEFAULT_SIGNATURE: _function(tf, keras, model)}
    except Exception as exc:  # it raises whatever the layers raise
        raise LoadError(
            f"`{path}` cannot be read", got=f"{type(exc).__name__}: {first_line(exc)}"
        ) from exc


class _Custom(NamedTuple):
    """Something in a file that is not Keras's own."""

    module: str | None
    name: str
    registered_name: str | None

    @property
    def text(self) -> str:
        return f"{self.module}.{self.name}" if self.module else self.registered_name or self.name

    def find(self) -> dict[str, Any]:
        """Return the object by the names that Keras may look it up with; importing its module may
        register it as well."""
        if self.module is None or self.module.partition(".")[0] in _OWN_MODULES:
            return {}
        found = getattr(importlib.import_module(self.module), self.name, None)
        names = {self.name, self.registered_name or self.name}
        return {} if found is None else dict.fromkeys(names, found)


def _custom_objects(config: Any) -> Iterator[_Custom]:
    """Find what a configuration holds of foreign classes and functions, and of Python bytecode."""
    if isinstance(config, list):
        for value in config:
            yield from _custom_objects(value)
    if not isinstance(config, Mapping):
        return
    kind, module = config.get("class_name"), config.get("module")
    if isinstance(kind, str):
        inner = config.get("config")
        name = inner if kind == "function" and isinstance(inner, str) else kind
        is_own = "module" not in config or str(module).partition(".")[0] in _OWN_MODULES
        # `package>name` is what `register_keras_serializable` makes.
        if not is_own or ">" in name or kind in ("Lambda", "__lambda__"):
            yield _Custom(module, name, config.get("registered_name"))
    for value in config.values():
        yield from _custom_objects(value)


def _read_config(path: Path) -> Any:
    try:
        with ZipFile(path) as archive:
            return json.loads(archive.read("config.json"))
    except (BadZipFile, KeyError, OSError, ValueError) as exc:
        raise LoadError(
            f"`{path}` is no Keras 3 file",
            expected="what `model.save('name.keras')` writes",
            got=f"{type(exc).__name__}: {exc}",
        ) from exc


def _import() -> Any:
    try:
        import keras
    except ImportError as exc:
        raise MissingDependency(
            "The model needs Keras 3", remedy='pip install "rayserve-app[tensorflow]"'
        ) from exc
    if keras.backend.backend() != "tensorflow":
        raise LoadError(
            "Keras runs on another framework in this process",
            expected="tensorflow",
            got=keras.backend.backend(),
            remedy="Give the other Keras model an application of its own.",
        )
    return keras


def _function(tf: Any, keras: Any, model: Any) -> Function:
    # A Sequential model that was only loaded has no `input`, but one tensor in `inputs`.
    structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    tensors = keras.tree.flatten(structure)
    specs = {each.name: tf.TensorSpec(each.shape, each.dtype, name=each.name) for each in tensors}

    def call(feed: dict[str, Any]) -> dict[str, Any]:
        arguments = keras.tree.pack_sequence_as(structure, [feed[each.name] for each in tensors])
        return _named(keras, model, model(arguments, training=False))

    function = tf.function(call, autograph=False).get_concrete_function(specs)
    return Function(function, inputs=specs, outputs=function.structured_outputs, owner=model)


def _named(keras: Any, model: Any, answer: Any) -> dict[str, Any]:
    """Return a model's outputs by name: its own, or that of the layer which each comes from."""
    tensors = keras.tree.flatten(answer)
    if isinstance(answer, Mapping) and len(answer) == len(tensors):
        return dict(answer)
    names = getattr(model, "output_names", None) or [model.layers[-1].name]
    if len(set(names)) != len(tensors):
        names = [f"output_{index}" for index in range(len(tensors))]
    return dict(zip(names, tensors, strict=True))
