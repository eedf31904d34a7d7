"""What TensorFlow Serving's REST API says of a model: its versions' states, and its signatures.

Source: tensorflow/serving, http_rest_api_util.cc, ToJsonString; apis/get_model_status.proto;
tensorflow, core/protobuf/meta_graph.proto. The layout is protobuf's `add_whitespace`, a space a
level.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rayserve_app.inference.servables import Servable
from rayserve_app.protocols.tensorflow_serving.items import tensor_specs
from rayserve_app.types import TensorSpec

PREDICT_METHOD: Final = "tensorflow/serving/predict"

# tensorflow, core/framework/types.proto
_TYPES: Final[Mapping[str, str]] = {
    "float32": "DT_FLOAT",
    "float64": "DT_DOUBLE",
    "float16": "DT_HALF",
    "bfloat16": "DT_BFLOAT16",
    "int8": "DT_INT8",
    "int16": "DT_INT16",
    "int32": "DT_INT32",
    "int64": "DT_INT64",
    "uint8": "DT_UINT8",
    "uint16": "DT_UINT16",
    "uint32": "DT_UINT32",
    "uint64": "DT_UINT64",
    "bool": "DT_BOOL",
    "complex64": "DT_COMPLEX64",
    "complex128": "DT_COMPLEX128",
    "string": "DT_STRING",
}


def render_status(versions: Iterable[str], state: str) -> bytes:
    """Write the state of versions, the newest first as upstream's monitor has them."""
    statuses = [
        {"version": version, "state": state, "status": {"error_code": "OK", "error_message": ""}}
        for version in sorted(versions, key=_age, reverse=True)
    ]
    return f"{_dump({'model_version_status': statuses})}\n".encode()


def render_metadata(name: str, version: str, signatures: Mapping[str, Any]) -> bytes:
    """Write the signatures of one version, each as JSON has a `tensorflow.SignatureDef`."""
    spec = {"name": name, "signature_name": "", "version": version}
    # The pieces are protobuf's, what joins them ToJsonString's.
    return (
        f'{{\n"model_spec":{_dump(spec)}\n,\n"metadata": {{"signature_def":'
        f" {_dump({'signature_def': signatures})}\n}}\n}}\n"
    ).encode()


def _dump(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False)


def _age(version: str) -> tuple[int, str]:
    is_number = version.isascii() and version.isdecimal() and len(version) < 20
    return (int(version) if is_number else -1, version)


def describe_signature(servable: Servable, outputs: Sequence[TensorSpec]) -> dict[str, Any]:
    """Return a model's signature as a `SignatureDef`.

    Inputs are what this API takes for them: encoded images and text are DT_STRING, whatever the
    model makes of them. A tensor without a shape is one of unknown rank.
    """
    return {
        "inputs": {spec.name: _tensor_info(spec) for spec in _inputs(servable)},
        "outputs": {spec.name: _tensor_info(spec) for spec in outputs},
        "method_name": PREDICT_METHOD,
    }


def _inputs(servable: Servable) -> tuple[TensorSpec, ...]:
    inputs = servable.inputs
    if inputs.takes_tensors and not tensor_specs(servable):
        return tuple(TensorSpec(name, "", ()) for name in inputs.names)
    return inputs.specs


def _tensor_info(spec: TensorSpec) -> dict[str, Any]:
    return {
        "dtype": _TYPES.get(spec.dtype, "DT_INVALID"),
        "tensor_shape": {
            "dim": [{"size": str(size), "name": ""} for size in spec.shape],
            "unknown_rank": not spec.is_known,
        },
        "name": f"{spec.name}:0",
    }
