"""TensorFlow Serving's gRPC services for the SavedModels of a package, on the loopback interface:
`PredictionService.Predict`, `Classify`, `Regress` and `GetModelMetadata`,
`ModelService.GetModelStatus`.

Source: tensorflow/serving, apis/prediction_service.proto, model_service.proto, predict_impl.cc.
Left out: `MultiInference`, and `HandleReloadConfigRequest`, since a package is what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc

from deployments.sagemaker.model_server import estimators, tensor_message
from deployments.sagemaker.model_server import prediction_messages as messages
from deployments.sagemaker.model_server.model_server import ModelServer, ServedModel
from deployments.sagemaker.model_server.status import code_of
from rayserve_app.errors import InvalidRequest, ServingError
from rayserve_app.inference.backend import DEFAULT_SIGNATURE
from rayserve_app.types import Array, Buffer

THREADS: Final = 8

# Messages of any size: 5 MB for one image is usual, and nobody but this process calls.
OPTIONS: Final = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


class PredictionService:
    """The services on a port of their own, in this process."""

    def __init__(self, models: ModelServer) -> None:
        self._models = models
        self._server = grpc.server(
            ThreadPoolExecutor(THREADS, thread_name_prefix="prediction-grpc"), options=OPTIONS
        )
        methods: dict[str, dict[str, tuple[Callable[[Any], Any], Any]]] = {
            "PredictionService": {
                "Predict": (self._predict, messages.PredictRequest),
                "Classify": (self._classify, messages.ClassificationRequest),
                "Regress": (self._regress, messages.RegressionRequest),
                "GetModelMetadata": (self._get_metadata, messages.GetModelMetadataRequest),
            },
            "ModelService": {
                "GetModelStatus": (self._get_status, messages.GetModelStatusRequest),
            },
        }
        for service, calls in methods.items():
            handlers = {name: _handler(call, kind) for name, (call, kind) in calls.items()}
            generic = grpc.method_handlers_generic_handler(
                f"tensorflow.serving.{service}", handlers
            )
            self._server.add_generic_rpc_handlers((generic,))
        self.port: int = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def close(self) -> None:
        self._server.stop(grace=None).wait()

    def _predict(self, request: Any) -> bytes:
        model = self._find(request)
        signature = _signature(request)
        inputs = {name: tensor_message.decode(data) for name, data in request.inputs.items()}
        outputs = model.predict(inputs, signature=signature, outputs=tuple(request.output_filter))
        response = messages.PredictResponse()
        _echo(response, model, signature)
        return b"".join([response.SerializeToString(), *_write_outputs(outputs)])

    def _classify(self, request: Any) -> Any:
        model, signature = self._find(request), _signature(request)
        labels, scores = estimators.classify(model, signature, _examples(request.input))
        response = messages.ClassificationResponse()
        _echo(response, model, signature)
        for row in zip(labels.tolist(), scores.tolist(), strict=True):
            classes = response.result.classifications.add().classes
            for label, score in zip(*row, strict=True):
                classes.add(label=label, score=score)
        return response

    def _regress(self, request: Any) -> Any:
        model, signature = self._find(request), _signature(request)
        response = messages.RegressionResponse()
        _echo(response, model, signature)
        for value in estimators.regress(model, signature, _examples(request.input)).tolist():
            response.result.regressions.add(value=value)
        return response

    def _get_metadata(self, request: Any) -> Any:
        if list(request.metadata_field) != ["signature_def"]:
            raise InvalidRequest("GetModelMetadataRequest must specify metadata_field")
        model = self._find(request)
        signatures = messages.SignatureDefMap()
        for name, definition in model.signature_defs.items():
            signatures.signature_def[name] = definition
        response = messages.GetModelMetadataResponse()
        _echo(response, model)
        field = response.metadata["signature_def"]
        field.type_url = "type.googleapis.com/tensorflow.serving.SignatureDefMap"
        field.value = signatures.SerializeToString()
        return response

    def _get_status(self, request: Any) -> Any:
        response = messages.GetModelStatusResponse()
        model = self._find(request)
        has_version = request.model_spec.HasField("version")
        models = [model] if has_version else self._models.versions(model.name)
        for model in models:
            status = response.model_version_status.add(
                version=model.version, state=messages.AVAILABLE
            )
            status.status.error_code = 0
        return response

    def _find(self, request: Any) -> ServedModel:
        spec = request.model_spec
        version = spec.version.value if spec.HasField("version") else None
        return self._models.find(spec.name, version, spec.version_label)


def _signature(request: Any) -> str:
    return request.model_spec.signature_name or DEFAULT_SIGNATURE


def _echo(response: Any, model: ServedModel, signature: str = "") -> None:
    """Name the model and signature that answer, with the version that was resolved."""
    response.model_spec.name = model.name
    response.model_spec.version.value = model.version
    response.model_spec.signature_name = signature


def _examples(given: Any) -> list[bytes]:
    """Return the serialised examples of a request (servables/tensorflow/util.cc)."""
    context = given.example_list_with_context.context
    # Messages that follow each other are one, in which the later fields win.
    examples = [context + each for each in given.example_list_with_context.examples]
    examples += given.example_list.examples
    if not examples:
        raise InvalidRequest("Input is empty.")
    return examples


def _write_outputs(outputs: Mapping[str, Array]) -> Iterator[Buffer]:
    """Write the map `PredictResponse.outputs` from the arrays' own memory: protobuf would copy
    what may be 50 MB three times."""
    for name, array in outputs.items():
        tensor = tensor_message.encode(array)
        length = sum(map(len, tensor))
        # An entry of a map is a message of two fields, the key and the value.
        key = name.encode()
        entry = tensor_message.field_head(1, len(key)) + key + tensor_message.field_head(2, length)
        yield tensor_message.field_head(messages.OUTPUTS, len(entry) + length) + entry
        yield from tensor


def _serialize(response: Any) -> bytes:
    if isinstance(response, bytes):
        return response
    return bytes(response.SerializeToString())


def _handler(call: Callable[[Any], Any], kind: Any) -> Any:
    def answer(request: Any, context: Any) -> Any:
        try:
            return call(request)
        except ServingError as exc:
            context.abort(getattr(grpc.StatusCode, code_of(exc)), str(exc))

    return grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=kind.FromString,
        response_serializer=_serialize,
    )
