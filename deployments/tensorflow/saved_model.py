"""SavedModels: which directory is one, and the signatures in it.

Source: tensorflow/python/saved_model/loader_impl.py and load.py of TensorFlow 2.21.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from deployments.tensorflow.sentences import first_line
from deployments.tensorflow.signature import Function
from rayserve_app.errors import LoadError

FILES = ("saved_model.pb", "saved_model.pbtxt")


def is_saved_model(directory: Path) -> bool:
    """Return whether the directory holds a SavedModel's graph."""
    return any((directory / name).is_file() for name in FILES)


def load(tf: Any, directory: Path) -> dict[str, Function]:
    """Return the signatures of a SavedModel by name.

    Raises:
        LoadError: it cannot be read.
    """
    try:
        model = tf.saved_model.load(str(directory))
    except Exception as exc:  # each of its readers raises in its own manner, even IndexError
        raise LoadError(
            f"The SavedModel in `{directory}` cannot be read",
            got=f"{type(exc).__name__}: {first_line(exc)}",
        ) from exc
    return {
        name: Function(
            partial(_call, function),
            inputs=function.structured_input_signature[1],
            outputs=function.structured_outputs,
            owner=model,
        )
        for name, function in model.signatures.items()
    }


def _call(function: Any, feed: dict[str, Any]) -> Any:
    return function(**feed)
