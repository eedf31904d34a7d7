"""TensorFlow Serving's REST API (rayserve_app/protocols/tensorflow_serving/rest.py) mounted on the
SavedModels of a package, for the package's own code in this process."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Final
from urllib.parse import unquote

from deployments.sagemaker.model_server import estimators
from deployments.sagemaker.model_server.model_server import ModelServer, ServedModel
from rayserve_app.codecs.tensorflow.document import decode_document
from rayserve_app.codecs.tensorflow.examples import Features, serialise
from rayserve_app.codecs.tensorflow.reply import (
    render_classifications,
    render_error,
    render_outputs,
    render_predictions,
    render_regressions,
)
from rayserve_app.codecs.tensorflow.tensors import read_columns, read_rows
from rayserve_app.errors import ServingError
from rayserve_app.inference.backend import DEFAULT_SIGNATURE
from rayserve_app.protocols.tensorflow_serving import rest
from rayserve_app.protocols.tensorflow_serving.metadata import render_metadata, render_status
from rayserve_app.types import Array, Reply, TensorSpec
from rayserve_app.web.messages import status_of

logger = logging.getLogger(__name__)

JSON: Final = "application/json"

# http_rest_api_util.cc, kPathRegex; names are case-sensitive, the rest is not.
PATH: Final = re.compile(
    r"(?i)/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
    rf"(?::(?P<verb>{'|'.join(rest.VERBS)})|(?P<metadata>/metadata))?"
)


class PredictionRest:
    """The API as a function of a request's line and body."""

    def __init__(self, models: ModelServer) -> None:
        self._models = models

    def answer(self, method: str, path: str, body: bytes | str = b"") -> Reply:
        """Answer one request; failures are answers too."""
        try:
            return Reply(self._answer(method, path, body), JSON)
        except ServingError as exc:
            return Reply(render_error(str(exc)), JSON, status_of(exc))

    def _answer(self, method: str, path: str, body: bytes | str) -> bytes:
        line = f"{method} {path}"
        match = PATH.fullmatch(path.partition("?")[0])
        if match is None or (method == "POST") != bool(match["verb"]):
            raise rest.no_name() if path.rstrip("/") == "/v1/models" else rest.malformed(line)
        name = unquote(match["name"])
        digits, label = match["version"], unquote(match["label"] or "")
        version = None if digits is None else int(rest.read_version(digits, line))
        model = self._models.find(name, version, label)
        if match["verb"]:
            return rest.take(
                match["verb"].lower(), decode_document(body), partial(_Signature, model)
            )
        if match["metadata"]:
            return render_metadata(name, str(model.version), _definitions(model))
        models = self._models.versions(name) if version is None else [model]
        return render_status({str(each.version) for each in models}, "AVAILABLE")


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
            self._send(Reply(render_error("The body has no length"), JSON, 411))
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


class _Signature:
    """Answers requests by one signature, with whole tensors in one call."""

    def __init__(self, model: ServedModel, name: str | None) -> None:
        self._model = model
        self._name = name or DEFAULT_SIGNATURE

    def predict_rows(self, instances: Sequence[Any]) -> bytes:
        return render_predictions(self._run(read_rows(instances, self._inputs)))

    def predict_columns(self, inputs: Any) -> bytes:
        return render_outputs(self._run(read_columns(inputs, self._inputs)))

    def classify(self, examples: Sequence[Features]) -> bytes:
        serialised = list(map(serialise, examples))
        labels, scores = estimators.classify(self._model, self._name, serialised)
        return render_classifications(labels.tolist(), list(scores))

    def regress(self, examples: Sequence[Features]) -> bytes:
        serialised = list(map(serialise, examples))
        return render_regressions(estimators.regress(self._model, self._name, serialised))

    @property
    def _inputs(self) -> Sequence[TensorSpec]:
        if self._name not in self._model.signature_defs:
            raise rest.no_signature(self._name)
        return self._model.metadata(self._name).inputs

    def _run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        return dict(sorted(self._model.predict(feed, signature=self._name).items()))


def _definitions(model: ServedModel) -> dict[str, Any]:
    """Return the signatures as they were saved, with TensorFlow's own JSON of each."""
    from google.protobuf.json_format import MessageToDict
    from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

    return {
        name: MessageToDict(
            SignatureDef.FromString(definition),
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
        )
        for name, definition in model.signature_defs.items()
    }
