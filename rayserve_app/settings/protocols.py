"""What a model's YAML may say of the protocols that it speaks."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from rayserve_app.settings.locations import check_place
from rayserve_app.settings.section import Section

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


def _check_protocols(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in PROTOCOLS:
            raise ValueError(f"No such protocol {name!r}; known: {', '.join(PROTOCOLS)}")
    if len(set(names)) < len(names):
        raise ValueError("A protocol stands there twice")
    return names


ProtocolNames = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_check_protocols)]
"""Protocols in the order in which they claim paths."""


def _check_origin(value: str) -> str:
    if value != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#\s]+", value):
        raise ValueError(
            "Not an origin as browsers send it, like `https://host` or `http://host:8080`"
        )
    return value


class CorsSettings(Section):
    """Which pages from elsewhere may call, whatever the protocol."""

    origins: Annotated[
        tuple[Annotated[str, AfterValidator(_check_origin)], ...], Field(min_length=1)
    ]
    """`https://host`, with a port if it is not the scheme's own; `"*"` for all."""


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

    async_input: tuple[Annotated[str, AfterValidator(check_place)], ...] = ()
    """Where inputs of asynchronous invocations may lie: `s3://bucket/prefix/`, `gs://` likewise, or
    a directory's absolute path. Nowhere if empty; inputs may still come with the request."""
    async_output: Annotated[str, AfterValidator(check_place)] | None = None
    """Where the results of asynchronous invocations are written; none are taken without it. Clients
    may choose names below it and so replace each other's results, as in S3: keep nothing else
    there."""
    async_concurrency: Annotated[int, Field(gt=0)] = 4
    """Asynchronous invocations that one replica works on at a time."""
    async_max_pending: Annotated[int, Field(gt=0)] = 1000
    """Asynchronous invocations that wait or run in one replica; more are refused."""


class SimpleTensorFlowServingSettings(Section):
    """simple_tensorflow_serving."""

    username: str | None = None
    password_variable: str | None = None
    """The environment variable that holds the password. With both, basic auth is asked for."""
    autoconvert_base64: bool = False
    """`--enable_b64_autoconvert`: `{"b64": ...}` anywhere in the data is decoded."""

    @model_validator(mode="after")
    def _names_user_and_password(self) -> Self:
        if bool(self.username) != bool(self.password_variable):
            raise ValueError("'username' and 'password_variable' go together")
        if ":" in (self.username or ""):
            raise ValueError("'username' ends at a colon in basic auth (RFC 7617)")
        return self


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
