"""Classification and regression of `tf.train.Example`s by the signatures that TensorFlow's
estimators export.

Source: tensorflow/serving, servables/tensorflow/classifier.cc and regressor.cc, their checks and
sentences included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from deployments.sagemaker.model_server.model_server import ServedModel
from deployments.sagemaker.model_server.status import FailedPrecondition
from rayserve_app.errors import InvalidRequest
from rayserve_app.protocols.tensorflow_serving.results import (
    CLASSES,
    OUTPUTS,
    SCORES,
    paired_classes,
    regression_values,
)
from rayserve_app.types import Array

# tensorflow/cc/saved_model/signature_constants.h
CLASSIFY: Final = "tensorflow/serving/classify"
REGRESS: Final = "tensorflow/serving/regress"
INPUTS: Final = "inputs"


def classify(model: ServedModel, signature: str, examples: Sequence[bytes]) -> tuple[Array, Array]:
    """Run a classification signature on serialised examples.

    Returns: labels, (N, K) bytes, and scores, (N, K) float32; empty text or scores of 0 if the
        signature has only the others.
    Raises:
        InvalidRequest: it is no such signature, or the model failed, or answered something else.
    """
    definition = _definition(model, signature, "classification", CLASSIFY)
    if len(definition.outputs) not in (1, 2):
        raise InvalidRequest(f"Expected one or two output Tensors, found {len(definition.outputs)}")
    _check_input(definition, "classification")
    named = [name for name in (CLASSES, SCORES) if name in definition.outputs]
    if not named:
        raise FailedPrecondition(
            f'Expected classification signature outputs to contain at least one of "{CLASSES}" or'
            f' "{SCORES}". Signature was: {definition}',
        )
    outputs = _run(model, signature, examples, named)
    labels, scores = paired_classes(outputs.get(CLASSES), outputs.get(SCORES))
    for name, array, dtype in ((CLASSES, labels, object), (SCORES, scores, np.float32)):
        if name in outputs:
            _check_classes(array, name, np.dtype(dtype), len(examples))
    return labels, scores


def regress(model: ServedModel, signature: str, examples: Sequence[bytes]) -> Array:
    """Run a regression signature on serialised examples.

    Returns: (N,) float32.
    Raises:
        InvalidRequest: it is no such signature, or the model failed, or answered something else.
    """
    definition = _definition(model, signature, "regression", REGRESS)
    if len(definition.outputs) != 1:
        raise InvalidRequest("Expected one output Tensor.")
    _check_input(definition, "regression")
    if OUTPUTS not in definition.outputs:
        raise FailedPrecondition(f"No regression outputs found in SignatureDef: {definition}")
    values = regression_values(_run(model, signature, examples, [OUTPUTS])[OUTPUTS])
    if len(values) != len(examples):
        raise InvalidRequest(
            f"Input batch size did not match output batch size: {len(examples)} vs. {len(values)}"
        )
    if values.dtype != np.float32:
        raise InvalidRequest(
            f"Expected output Tensor of DT_FLOAT.  Got: {_type_text(values.dtype)}"
        )
    return values


def _definition(model: ServedModel, signature: str, kind: str, method: str) -> Any:
    """Return the `SignatureDef`, which says what it was made for."""
    from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

    if signature not in model.signature_defs:
        raise InvalidRequest(f"No signature was found with the name: {signature}")
    definition: Any = SignatureDef.FromString(model.signature_defs[signature])
    if definition.method_name != method:
        raise InvalidRequest(
            f"Expected {kind} signature method_name to be {method}. Was: {definition.method_name}"
        )
    if len(definition.inputs) != 1:
        raise InvalidRequest("Expected one input Tensor.")
    return definition


def _check_input(definition: Any, kind: str) -> None:
    if INPUTS not in definition.inputs:
        raise FailedPrecondition(f"No {kind} inputs found in SignatureDef: {definition}")


def _run(
    model: ServedModel, signature: str, examples: Sequence[bytes], outputs: Sequence[str]
) -> Mapping[str, Array]:
    serialised = np.empty(len(examples), object)
    serialised[:] = examples
    return model.predict({INPUTS: serialised}, signature=signature, outputs=outputs)


def _check_classes(array: Array, name: str, dtype: np.dtype[Any], count: int) -> None:
    if array.dtype != dtype:
        expected = _type_text(dtype)
        raise InvalidRequest(
            f"Expected {name} Tensor of {expected}. Got: {_type_text(array.dtype)}"
        )
    if len(array) != count:
        raise InvalidRequest(f"Expected {name} output batch size of {count}. Got: {len(array)}")


def _type_text(dtype: np.dtype[Any]) -> str:
    import tensorflow as tf
    from tensorflow.core.framework.types_pb2 import DataType

    return str(DataType.Name(tf.as_dtype(dtype).as_datatype_enum))
