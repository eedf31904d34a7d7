"""The protocols that a model speaks under its prefix; a further one is a module and a line here.

A protocol is the envelope around a payload: pure `parse` and `render` functions above, thin routes
below. It knows codecs, models and errors, but no backend and no deployment.
"""

from __future__ import annotations

from typing import Final

PROTOCOLS: Final = {
    "clipper": "rayserve_app.protocols.clipper:Clipper",
    "sagemaker": "rayserve_app.protocols.sagemaker:SageMaker",
    "sagemaker_runtime": "rayserve_app.protocols.sagemaker:SageMakerRuntime",
    "tensorflow_serving": "rayserve_app.protocols.tensorflow_serving:TensorFlowServing",
    "open_inference": "rayserve_app.protocols.open_inference:OpenInference",
    "simple_tensorflow_serving": (
        "rayserve_app.protocols.simple_tensorflow_serving:SimpleTensorFlowServing"
    ),
    "cluster_serving": "rayserve_app.protocols.cluster_serving:ClusterServing",
    "multi_model_server": "rayserve_app.protocols.multi_model_server:MultiModelServer",
}
"""In the order in which they claim paths, where the YAML names no other."""
