"""Asks TensorFlow Serving's REST API itself, more than once for a request."""

import json

import humanize
import requests


def handler(data, context):
    model, _, _ = context.rest_uri.rpartition(":")
    status = requests.get(model, timeout=10)
    status.raise_for_status()
    answer = requests.post(context.rest_uri, data=data.read(), timeout=10)
    if answer.status_code != 200:
        raise ValueError(answer.json()["error"])
    told = {
        "predictions": answer.json()["predictions"],
        "versions": [each["version"] for each in status.json()["model_version_status"]],
        "length": humanize.intcomma(context.content_length),
        "rest_uri": context.rest_uri,
        "grpc_port": context.grpc_port,
    }
    return json.dumps(told), context.accept_header
