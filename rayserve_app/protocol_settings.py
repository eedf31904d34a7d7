"""What a model's YAML may say of the protocols that it speaks."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from rayserve_app.section import Section


def _check_post_processing(value: str) -> str:
    if not re.fullmatch(r"(topN|pickTopN)\([1-9][0-9]{0,5}\)", value):
        raise ValueError("Not `topN(n)` or `pickTopN(n)`")
    return value


class TensorFlowServingSettings(Section):
    """TF Serving's REST API."""

    version_labels: dict[str, str] = Field(default_factory=dict)
    """Versions by label, as `/v1/models/{model}/labels/{label}` names them."""


class OpenInferenceSettings(Section):
    """The Open Inference Protocol v2."""

    model_control: Literal["none", "explicit"] = "none"
    """`explicit` lets clients load and unload the model in the replica that they reach, as Triton's
    `--model-control-mode` does: for applications of one replica. `none` refuses it."""


class SageMakerSettings(Section):
    """SageMaker's runtime API."""

    async_input: tuple[str, ...] = ()
    """Where inputs of asynchronous invocations may lie: `s3://bucket/prefix/`, or a directory's
    absolute path. Nowhere if empty."""
    async_output: str | None = None
    """Where the results of asynchronous invocations are written; none are taken without it."""


class SimpleTensorFlowServingSettings(Section):
    """simple_tensorflow_serving."""

    username: str | None = None
    password_variable: str | None = None
    """The environment variable that holds the password. With both, basic auth is asked for."""
    autoconvert_base64: bool = False
    """`--enable_b64_autoconvert`: `{"b64": ...}` anywhere in the data is decoded."""


class ClusterServingSettings(Section):
    """The HTTP frontend of Analytics Zoo Cluster Serving."""

    prediction: Literal["json", "map"] = "json"
    """How one prediction is written as a string: JSON as since 0.10, or a Java map as in 0.9."""
    post_processing: Annotated[str, AfterValidator(_check_post_processing)] | None = None
    """`topN(n)` or `pickTopN(n)`."""


class ProtocolSettings(Section):
    """The protocols' settings, by their names."""

    tensorflow_serving: TensorFlowServingSettings = Field(default_factory=TensorFlowServingSettings)
    open_inference: OpenInferenceSettings = Field(default_factory=OpenInferenceSettings)
    sagemaker: SageMakerSettings = Field(default_factory=SageMakerSettings)
    simple_tensorflow_serving: SimpleTensorFlowServingSettings = Field(
        default_factory=SimpleTensorFlowServingSettings
    )
    cluster_serving: ClusterServingSettings = Field(default_factory=ClusterServingSettings)
