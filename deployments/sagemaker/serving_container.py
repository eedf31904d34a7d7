"""The contract of SageMaker's TensorFlow Serving container: a package's SavedModels behind the
user's `handler`, or `input_handler` and `output_handler`, or behind none.

Source: aws/sagemaker-tensorflow-serving-container da19256, python_service.py, tfs_utils.py.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

import grpc
import requests

from deployments.sagemaker.model_server.model_server import ModelServer
from deployments.sagemaker.model_server.prediction_rest import PredictionRest, RestServer
from deployments.sagemaker.model_server.prediction_service import PredictionService
from rayserve_app.codecs.tensorflow.container_headers import tfs_attributes
from rayserve_app.errors import LoadError
from rayserve_app.types import FailedInvocation, Invocation, Reply

Handler = Callable[[Any, Any], Any]

JSON: Final = "application/json"


class Context(NamedTuple):
    """What a handler is told of its request (tfs_utils.py)."""

    model_name: str | None
    model_version: str | None
    method: str | None
    rest_uri: str
    grpc_port: str
    channel: Any
    custom_attributes: str | None
    request_content_type: str
    accept_header: str
    content_length: int | None


class ServingContainer:
    """The user's handlers, and the endpoints that they may call.

    The endpoints listen on ports of their own on the loopback interface, not on 9000 and 8501:
    several replicas share a machine. Handlers find them in their context.
    """

    def __init__(self, models: ModelServer, module: ModuleType) -> None:
        """Start the endpoints.

        Raises:
            LoadError: the module has no handlers.
        """
        self._handler = _find_handler(module)
        self._models = models
        self._grpc = PredictionService(models)
        self._rest = RestServer(PredictionRest(models))
        self._channel = grpc.insecure_channel(f"localhost:{self._grpc.port}")

    def invoke(self, invocation: Invocation) -> Reply:
        """Answer one request.

        Raises:
            FailedInvocation: the handler raised; the reply is `{"error": ...}` with 500.
        """
        try:
            body, content_type = self._handler(
                io.BytesIO(invocation.body), self._context(invocation)
            )
            # falcon's answer to None: nothing, or the type that it has for whoever names none.
            return Reply(_as_body(body), JSON if content_type is None else content_type)
        except Exception as exc:
            reply = Reply(json.dumps({"error": str(exc)}), JSON, 500)
            problem = f"The user code failed: {type(exc).__name__}: {exc}"
            raise FailedInvocation(problem, reply) from exc

    def close(self) -> None:
        self._channel.close()
        self._rest.close()
        self._grpc.close()

    def _context(self, invocation: Invocation) -> Context:
        attributes = tfs_attributes(invocation.custom_attributes)
        return Context(
            model_name=attributes.get("tfs-model-name"),
            model_version=attributes.get("tfs-model-version"),
            method=attributes.get("tfs-method"),
            rest_uri=f"http://localhost:{self._rest.port}"
            + predict_path(attributes, self._models.default_name),
            grpc_port=str(self._grpc.port),
            channel=self._channel,
            custom_attributes=invocation.custom_attributes,
            request_content_type=invocation.content_type or JSON,
            accept_header=invocation.accept or JSON,
            content_length=len(invocation.body),
        )


def predict_path(attributes: dict[str, str], default_name: str) -> str:
    """Return the path of the REST API that a request's attributes name."""
    version = attributes.get("tfs-model-version")
    path = f"/v1/models/{attributes.get('tfs-model-name', default_name)}"
    if version:
        path += f"/versions/{version}"
    return f"{path}:{attributes.get('tfs-method', 'predict')}"


def _find_handler(module: ModuleType) -> Handler:
    """Return `handler`, which wins, or the pair around a call of the REST API."""
    handler: Handler | None = getattr(module, "handler", None)
    if handler is not None:
        return handler
    input_handler = getattr(module, "input_handler", None)
    output_handler = getattr(module, "output_handler", None)
    if input_handler is None or output_handler is None:
        name = Path(module.__file__ or module.__name__)
        pair = {"input_handler": input_handler, "output_handler": output_handler}
        raise LoadError(
            f"`{name}` has no handler",
            expected="handler(data, context), or input_handler and output_handler",
            got=", ".join(key for key, each in pair.items() if each is not None) or "neither",
        )
    session = requests.Session()
    session.trust_env = False  # A proxy in the environment does not reach this machine's loopback.

    def through_rest(data: Any, context: Context) -> Any:
        processed = input_handler(data, context)
        return output_handler(session.post(context.rest_uri, data=processed), context)

    return through_rest


def _as_body(body: Any) -> bytes | str:
    if isinstance(body, bytes | str):
        return body
    if body is None:
        return b""
    if isinstance(body, bytearray | memoryview):
        return bytes(body)
    raise TypeError(f"The handler returned a {type(body).__name__}, not bytes or a string")
