"""SageMaker's TensorFlow Serving container for a package without handlers: JSON, JSON lines and CSV
become predict requests.

Source: aws/sagemaker-tensorflow-serving-container da19256, tensorflowServing.js.
"""

from __future__ import annotations

import re
from typing import Final

from deployments.sagemaker.model_server.model_server import ModelServer
from deployments.sagemaker.model_server.prediction_rest import PredictionRest
from deployments.sagemaker.serving_container import predict_path
from rayserve_app.codecs.tensorflow.container_headers import accepted_type, tfs_attributes
from rayserve_app.types import FailedInvocation, Invocation, Reply

JSON_TYPES: Final = ("application/json", "application/jsonlines", "application/jsons")

PREDICT_JSON: Final = re.compile(r'"(instances|inputs|examples)"\s*:')
JSON_LINES: Final = re.compile(r"[}\]]\s*[\[{]")
NESTED_LIST: Final = re.compile(r"\s*\[\s*\[")
NEEDS_NO_QUOTES: Final = re.compile(r'\s*("|[\d.Ee+\-]+.*)')


class PlainContainer:
    """Hands requests to the REST API, in this process."""

    def __init__(self, models: ModelServer) -> None:
        self._models = models
        self._api = PredictionRest(models)

    def invoke(self, invocation: Invocation) -> Reply:
        """Answer one request.

        Raises:
            FailedInvocation: with the reply of the REST API, or with 415 for another content type:
                they are compared to the letter.
        """
        kind = invocation.content_type
        if kind != "text/csv" and kind not in JSON_TYPES:
            message = f"Unsupported Media Type: {kind or 'Unknown'}"
            raise FailedInvocation(message, Reply(f'{{"error": "{message}"}}', None, 415))
        text = bytes(invocation.body).decode(errors="replace")
        body = from_csv(text) if kind == "text/csv" else from_json(text)
        attributes = tfs_attributes(invocation.custom_attributes)
        path = predict_path(attributes, self._models.default_name)
        reply = as_accepted(self._api.answer("POST", path, body), invocation.accept)
        if reply.status != 200:
            raise FailedInvocation(f"The model failed: {reply}", reply)
        return reply

    def close(self) -> None:
        return


def from_json(text: str) -> str:
    """Return a predict request for a JSON body: as it is, or its values as `instances`."""
    if PREDICT_JSON.search(text):
        return text
    if JSON_LINES.search(text):
        lines = [line.strip() for line in re.split(r"\r?\n", text.strip())]
        listed = ",".join(filter(None, lines))
        return f'{{"instances":{listed}}}' if len(lines) == 1 else f'{{"instances":[{listed}]}}'
    return f'{{"instances":{text if NESTED_LIST.match(text) else f"[{text}]"}}}'


def from_csv(text: str) -> str:
    """Return a predict request for CSV: a line with commas is a list; if the first field is no
    number, fields are strings."""
    quote = not NEEDS_NO_QUOTES.match(text)
    rows = []
    for line in filter(None, map(str.strip, re.split(r"\r?\n", text.strip()))):
        # JavaScript's `replace` of a string changes the first one only; here all are meant.
        fields = line.replace('"', '\\"').replace(",", '","') if quote else line
        row = f'"{fields}"' if quote else fields
        rows.append(f"[{row}]" if "," in line else row)
    return f'{{"instances":[{",".join(rows)}]}}'


def as_accepted(reply: Reply, accept: str | None) -> Reply:
    """Write an answer on one line, with the first accepted type, where JSON is accepted."""
    kind = accepted_type(accept)
    if kind is None:
        return reply
    return reply._replace(body=(reply.text or "").replace("\n", ""), content_type=kind)
