"""TensorFlow Serving's REST API for the SavedModels of a package: `:predict`, `:classify`,
`:regress`, status and metadata.

Source: tensorflow/serving, http_rest_api_handler.cc, http_rest_api_util.cc.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Final
from urllib.parse import unquote

from deployments.sagemaker.model_server import estimators
from deployments.sagemaker.model_server.model_server import ModelServer, ServedModel
from deployments.sagemaker.model_server.status import StatusError, invalid
from rayserve_app.codecs.tensorflow import reply as replies
from rayserve_app.codecs.tensorflow.document import decode_document, instances_of, signature_name
from rayserve_app.codecs.tensorflow.examples import read_examples, serialise
from rayserve_app.codecs.tensorflow.tensors import read_columns, read_rows
from rayserve_app.errors import InvalidRequest, PredictError
from rayserve_app.inference.backend import DEFAULT_SIGNATURE
from rayserve_app.types import Array, Reply

logger = logging.getLogger(__name__)

JSON: Final = "application/json"

# http_rest_api_util.cc, kPathRegex; names are case-sensitive, the rest is not.
PATH: Final = re.compile(
    r"(?i)/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
    r"(?P<rest>:predict|:classify|:regress|/metadata)?"
)

MAX_VERSION: Final = 2**63 - 1

HTTP_STATUS: Final = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "NOT_FOUND": 404,
    "INTERNAL": 500,
}


class PredictionRest:
    """The API as a function of a request's line and body."""

    def __init__(self, models: ModelServer) -> None:
        self._models = models

    def answer(self, method: str, path: str, body: bytes | str = b"") -> Reply:
        """Answer one request; failures are answers too."""
        try:
            return Reply(self._answer(method, path, body), JSON)
        except StatusError as exc:
            return Reply(replies.render_error(exc.message), JSON, HTTP_STATUS[exc.code])
        except (InvalidRequest, PredictError) as exc:
            return Reply(replies.render_error(str(exc)), JSON, 400)

    def _answer(self, method: str, path: str, body: bytes | str) -> bytes | str:
        match = PATH.fullmatch(path.partition("?")[0])
        rest = (match["rest"] or "").lower() if match else ""
        if match is None or (method == "POST") != rest.startswith(":"):
            if path.rstrip("/") == "/v1/models":
                raise invalid("Missing model name in request.")
            raise invalid(f"Malformed request: {method} {path}")
        name = unquote(match["name"])
        version = _version(match["version"])
        label = unquote(match["label"]) if match["label"] else None
        model = self._models.find(name, version, label)
        if rest == ":predict":
            return _predict(model, body)
        if rest == ":classify":
            return _classify(model, body)
        if rest == ":regress":
            return _regress(model, body)
        if rest == "/metadata":
            return _render_metadata(model)
        return _render_status(self._models.versions(name) if version is None else [model])


class RestServer:
    """The API on a port of the loopback interface."""

    def __init__(self, api: PredictionRest) -> None:
        handler = type("Handler", (_Handler,), {"api": api})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="prediction-rest", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    api: ClassVar[PredictionRest]

    def do_GET(self) -> None:
        self._send(self.api.answer("GET", self.path))

    def do_POST(self) -> None:
        try:
            body = self._read()
        except ValueError:
            self.close_connection = True
            self._send(Reply(replies.render_error("The body has no length"), JSON, 411))
            return
        self._send(self.api.answer("POST", self.path, body))

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "")))
        pieces: list[bytes] = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            continue
        return b"".join(pieces)

    def _send(self, reply: Reply) -> None:
        body = reply.body.encode() if isinstance(reply.body, str) else reply.body
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type or JSON)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)


def _version(digits: str | None) -> int | None:
    if digits is None:
        return None
    # Python itself refuses to read thousands of digits.
    if len(digits.lstrip("0")) > len(str(MAX_VERSION)) or int(digits) > MAX_VERSION:
        raise invalid(f"Failed to convert version: {digits} to numeric.")
    return int(digits)


def _predict(model: ServedModel, body: bytes | str) -> bytes:
    document = decode_document(body)
    signature = signature_name(document) or DEFAULT_SIGNATURE
    if signature not in model.signature_defs:
        raise invalid(f'Serving signature name: "{signature}" not found in signature def')
    specs, instances = model.metadata(signature).inputs, instances_of(document)
    if instances is None:
        return replies.render_outputs(
            _run(model, signature, read_columns(document["inputs"], specs))
        )
    return replies.render_predictions(_run(model, signature, read_rows(instances, specs)))


def _run(model: ServedModel, signature: str, feed: Mapping[str, Array]) -> dict[str, Array]:
    return dict(sorted(model.predict(feed, signature=signature).items()))


def _classify(model: ServedModel, body: bytes | str) -> bytes:
    signature, examples = _examples(body)
    labels, scores = estimators.classify(model, signature, examples)
    return replies.render_classifications(labels.tolist(), list(scores))


def _regress(model: ServedModel, body: bytes | str) -> bytes:
    signature, examples = _examples(body)
    return replies.render_regressions(estimators.regress(model, signature, examples))


def _examples(body: bytes | str) -> tuple[str, list[bytes]]:
    document = decode_document(body)
    signature = signature_name(document) or DEFAULT_SIGNATURE
    return signature, list(map(serialise, read_examples(document)))


def _render_status(models: list[ServedModel]) -> str:
    status = {"error_code": "OK", "error_message": ""}
    versions = [
        {"version": str(model.version), "state": "AVAILABLE", "status": status} for model in models
    ]
    return json.dumps({"model_version_status": versions}, indent=1)


def _render_metadata(model: ServedModel) -> str:
    from google.protobuf.json_format import MessageToDict
    from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

    signatures = {
        name: MessageToDict(
            SignatureDef.FromString(definition),
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
        )
        for name, definition in model.signature_defs.items()
    }
    spec = {"name": model.name, "signature_name": "", "version": str(model.version)}
    metadata = {"signature_def": {"signature_def": signatures}}
    return json.dumps({"model_spec": spec, "metadata": metadata}, indent=1)
