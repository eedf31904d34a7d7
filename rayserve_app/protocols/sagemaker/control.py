"""The calls of SageMaker's control plane that its Python SDK makes around predictions.

Source: botocore 1.43, sagemaker 2017-07-24: AWS JSON 1.1, `POST /` with the operation in
`X-Amz-Target`. Endpoints are declared in YAML: the two that delete succeed and delete nothing, so
that a client's clean-up ends well. An endpoint and its configuration bear the model's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from rayserve_app.codecs import json
from rayserve_app.errors import DecodeError, InvalidRequest, ModelNotFound, ServingError
from rayserve_app.inference.model import Model
from rayserve_app.types import Buffer
from rayserve_app.web.messages import Response, did_you_mean, retry_headers, status_of

MEDIA_TYPE: Final = "application/x-amz-json-1.1"

TARGET_PREFIX: Final = "SageMaker."

# The operations and the one field that each reads.
OPERATIONS: Final[Mapping[str, str]] = {
    "DescribeEndpoint": "EndpointName",
    "DescribeEndpointConfig": "EndpointConfigName",
    "DeleteEndpoint": "EndpointName",
    "DeleteEndpointConfig": "EndpointConfigName",
}

VARIANT: Final = "AllTraffic"
"""The SDK's name of an endpoint's only variant."""

# No account and no region are behind it; SDKs want the form.
ARN: Final = "arn:aws:sagemaker:local:000000000000"


class UnknownOperation(InvalidRequest):
    """Not an operation that is answered here."""


class Call(NamedTuple):
    """An operation, and the endpoint or the configuration that it names."""

    operation: str
    endpoint: str


def parse(target: str, body: Buffer) -> Call:
    """Read a call.

    Raises:
        UnknownOperation: `X-Amz-Target` names another operation; the sentence lists the known.
        DecodeError: the body is not what the operation takes.
    """
    operation = target.removeprefix(TARGET_PREFIX)
    if operation == target or operation not in OPERATIONS:
        known = ", ".join(TARGET_PREFIX + name for name in OPERATIONS)
        raise UnknownOperation("No such operation", expected=known, got=repr(target[:200]))
    key = OPERATIONS[operation]
    name = json.decode_object(body).get(key)
    if not isinstance(name, str):
        raise DecodeError("wrong type", expected="a string", got=type(name).__name__, path=key)
    return Call(operation, name)


def answer(call: Call, model: Model, *, created_at: float) -> dict[str, Any]:
    """Return what a call answers.

    Args:
        created_at: seconds since 1970.
    Raises:
        ModelNotFound: it names another endpoint.
    """
    if call.endpoint != model.name:
        kind = "endpoint configuration" if "Config" in call.operation else "endpoint"
        raise ModelNotFound(
            f'Could not find {kind} "{call.endpoint[:200]}"',
            remedy=did_you_mean(call.endpoint, [model.name]) or None,
        )
    if call.operation == "DescribeEndpoint":
        return _describe_endpoint(model, created_at)
    if call.operation == "DescribeEndpointConfig":
        return _describe_config(model, created_at)
    return {}


def render(value: Mapping[str, Any]) -> Response:
    """Write an answer."""
    return Response(json.encode(value), media_type=MEDIA_TYPE)


def render_error(error: ServingError) -> Response:
    """Write an error: its class is in `__type`."""
    kind, status = "ValidationException", 400
    if isinstance(error, UnknownOperation):
        kind = "UnknownOperationException"
    elif not isinstance(error, InvalidRequest | ModelNotFound):
        status = status_of(error)
        kind = "ServiceUnavailable" if status == 503 else "InternalFailure"
    body = json.encode({"__type": kind, "message": str(error)})
    headers = {"x-amzn-errortype": kind, **retry_headers(error)}
    return Response(body, status=status, media_type=MEDIA_TYPE, headers=headers)


def _describe_endpoint(model: Model, created_at: float) -> dict[str, Any]:
    variant = {"CurrentWeight": 1.0, "DesiredWeight": 1.0}
    return {
        "EndpointName": model.name,
        "EndpointArn": f"{ARN}:endpoint/{model.name}",
        "EndpointConfigName": model.name,
        "ProductionVariants": [{"VariantName": VARIANT, **variant}],
        "EndpointStatus": _status(model),
        "CreationTime": created_at,
        "LastModifiedTime": created_at,
    }


def _describe_config(model: Model, created_at: float) -> dict[str, Any]:
    variant = {"VariantName": VARIANT, "ModelName": model.name, "InitialVariantWeight": 1.0}
    return {
        "EndpointConfigName": model.name,
        "EndpointConfigArn": f"{ARN}:endpoint-config/{model.name}",
        "ProductionVariants": [variant],
        "CreationTime": created_at,
    }


def _status(model: Model) -> str:
    if not model.is_warm:
        return "Creating"
    return "OutOfService" if model.is_stalled else "InService"
