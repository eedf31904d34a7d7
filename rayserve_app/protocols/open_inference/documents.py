"""What the Open Inference Protocol says of a server and a model, as JSON values.

Sources: kserve/open-inference-protocol, open_inference_rest.md; Triton's
extension_model_configuration.md, extension_model_repository.md and extension_statistics.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import rayserve_app
from rayserve_app.codecs.open_inference_tensor import DATATYPES
from rayserve_app.inference.model import Model
from rayserve_app.inference.servables import Servable
from rayserve_app.metrics.recorder import Duration, Recorder
from rayserve_app.payloads.outputs import ONLY_OUTPUT
from rayserve_app.protocols.open_inference.tensors import input_specs
from rayserve_app.types import TensorSpec

EXTENSIONS: Final = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
)

UNKNOWN_OUTPUTS: Final = (TensorSpec(ONLY_OUTPUT, "string", (-1,)),)
"""What is told before a model's first answer: one value per item, in any form."""


def server_metadata() -> dict[str, Any]:
    """Return `$metadata_server_response`."""
    return {
        "name": "rayserve-app",
        "version": rayserve_app.__version__,
        "extensions": list(EXTENSIONS),
    }


def default_servables(model: Model) -> list[Servable]:
    """Return the default signature of every version, the default version first: the protocol knows
    versions and no signatures."""
    found: dict[str, Servable] = {}
    for each in model.versions:
        found.setdefault(each.version, each)
    return list(found.values())


def model_metadata(model: Model, servable: Servable) -> dict[str, Any]:
    """Return `$metadata_model_response`."""
    return {
        "name": model.name,
        "versions": [each.version for each in default_servables(model)],
        "platform": servable.metadata.platform,
        "inputs": [_tensor_metadata(spec) for spec in input_specs(servable)],
        "outputs": [_tensor_metadata(spec) for spec in _outputs(model, servable)],
    }


def model_config(model: Model, servable: Servable) -> dict[str, Any]:
    """Return Triton's ModelConfig, as far as there is something to say."""
    batching = model.settings.batching
    return {
        "name": model.name,
        "platform": servable.metadata.platform,
        "backend": servable.metadata.platform,
        "version_policy": {"all": {}},
        "max_batch_size": batching.max_batch_size,
        "input": [_tensor_config(spec) for spec in input_specs(servable)],
        "output": [_tensor_config(spec) for spec in _outputs(model, servable)],
        "dynamic_batching": {
            "max_queue_delay_microseconds": round(batching.batch_wait_timeout_s * 1e6)
        },
    }


def repository_index(
    name: str, versions: Iterable[str], *, state: str, reason: str
) -> list[dict[str, str]]:
    """Return an entry of `$repository_index_response` for each version."""
    return [
        {"name": name, "version": version, "state": state, "reason": reason} for version in versions
    ]


def model_statistics(model: Model, servable: Servable) -> dict[str, Any]:
    """Return one `$model_stat`. Items that one execution took together are its batch."""
    recorder = model.recorder
    inferences = recorder.inferences[servable.version]
    batches = _batch_statistics(recorder, servable)
    return {
        "name": model.name,
        "version": servable.version,
        "last_inference": inferences.last_ms,
        "inference_count": inferences.items,
        "execution_count": sum(each["compute_infer"]["count"] for each in batches),
        "inference_stats": {
            "success": _duration(inferences.success),
            "fail": _duration(inferences.fail),
            "queue": _duration(inferences.queue),
            "compute_input": _duration(inferences.compute_input),
            "compute_infer": _duration(inferences.compute_infer),
            "compute_output": _duration(inferences.compute_output),
            # Of all versions and protocols together, and too fast to be timed.
            "cache_hit": {"count": recorder.cached_items["hit"], "ns": 0},
            "cache_miss": {"count": recorder.cached_items["miss"], "ns": 0},
        },
        "batch_stats": batches,
    }


def _batch_statistics(recorder: Recorder, servable: Servable) -> list[dict[str, Any]]:
    """Return `$batch_stats`; decoding and writing belong to requests here, not to batches."""
    own = {
        size: duration
        for (predict, size), duration in list(recorder.executions.items())
        if predict == servable.predict
    }
    return [
        {
            "batch_size": size,
            "compute_input": {"count": own[size].count, "ns": 0},
            "compute_infer": _duration(own[size]),
            "compute_output": {"count": own[size].count, "ns": 0},
        }
        for size in sorted(own)
    ]


def _duration(duration: Duration) -> dict[str, int]:
    return {"count": duration.count, "ns": duration.ns}


def _outputs(model: Model, servable: Servable) -> tuple[TensorSpec, ...]:
    return model.observed_outputs.of(servable) or UNKNOWN_OUTPUTS


def _datatype(spec: TensorSpec) -> str:
    """Return a specification's datatype; FP32 for a model that takes any number, which is what
    every client can make."""
    return DATATYPES.get(spec.dtype or "float32", spec.dtype)


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": _datatype(spec), "shape": _shape(spec)}


def _shape(spec: TensorSpec) -> list[int]:
    return list(spec.shape) if spec.is_known else [-1]


def _tensor_config(spec: TensorSpec) -> dict[str, Any]:
    datatype = _datatype(spec)
    return {
        "name": spec.name,
        "data_type": "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}",
        # Without the batch axis (model_config.proto); a scalar per item has one of length 1.
        "dims": list(spec.item_shape) or [1 if spec.is_known else -1],
    }
