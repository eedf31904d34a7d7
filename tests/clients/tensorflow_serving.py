"""What TensorFlow Serving's users write: `requests` against the REST API, as api_rest.md, the
`Serving_REST_simple` notebook and `resnet_client.py` show it."""

from __future__ import annotations

import base64
import json
from typing import Any

import requests

TIMEOUT_S = 60


def post(url: str, model: str, method: str, **body: Any) -> requests.Response:
    return requests.post(
        f"{url}/v1/models/{model}:{method}",
        data=json.dumps(body),
        headers={"content-type": "application/json"},
        timeout=TIMEOUT_S,
    )


def check_image(url: str, model: str, image: bytes, prediction: Any) -> None:
    """An image in base64, in rows and in columns, alone and as one of two, gets the same answer.

    Args:
        url: where `/v1` begins, as `http://host:8501`.
        prediction: the model's one output for the image.
    """
    value = {"b64": base64.b64encode(image).decode("utf-8")}
    response = post(url, model, "predict", instances=[value])
    response.raise_for_status()
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"predictions": [prediction]}
    two = post(url, model, "predict", instances=[value, value])
    assert two.json()["predictions"] == [prediction] * 2
    columns = post(url, model, "predict", inputs=[value, value], signature_name="serving_default")
    assert columns.json() == {"outputs": [prediction] * 2}


def check_classes(url: str, model: str, image: bytes, classes: list[tuple[str, float]]) -> None:
    """An image gets its classes.

    Args:
        classes: labels and scores, which are written as float32.
    """
    example = {"image": {"b64": base64.b64encode(image).decode("utf-8")}, "caption": "seaside"}
    (found,) = post(url, model, "classify", examples=[example]).json()["results"]
    assert [label for label, _ in found] == [label for label, _ in classes]
    for (_, score), (_, expected) in zip(found, classes, strict=True):
        assert abs(score - expected) < 1e-6


def check_model(url: str, model: str, version: str) -> None:
    """The model is available in this version, which can be asked for, and has a signature."""
    base = f"{url}/v1/models/{model}"
    for path in (base, f"{base}/versions/{version}"):
        statuses = requests.get(path, timeout=TIMEOUT_S).json()["model_version_status"]
        assert {
            "version": version,
            "state": "AVAILABLE",
            "status": {"error_code": "OK", "error_message": ""},
        } in statuses
    metadata = requests.get(f"{base}/metadata", timeout=TIMEOUT_S).json()
    assert metadata["model_spec"] == {"name": model, "signature_name": "", "version": version}
    (definition, *_) = metadata["metadata"]["signature_def"]["signature_def"].values()
    assert definition["method_name"] == "tensorflow/serving/predict"
    assert definition["inputs"]


def check_errors(url: str, model: str) -> None:
    """What cannot be answered is told in upstream's words."""
    for response, status, sentence in (
        (
            requests.get(f"{url}/v1/models/{model}/versions/987654321", timeout=TIMEOUT_S),
            404,
            f"Could not find version 987654321 of model {model}",
        ),
        (
            post(url, f"{model}/labels/none", "predict", instances=[1]),
            400,
            "Unrecognized servable version label: none",
        ),
        (post(url, model, "predict"), 400, "Missing 'inputs' or 'instances' key"),
        (
            requests.post(f"{url}/v1/models/{model}:predict", timeout=TIMEOUT_S),
            400,
            "JSON Parse error: The document is empty",
        ),
    ):
        assert response.status_code == status
        assert response.headers["content-type"] == "application/json"
        assert response.json() == {"error": sentence}
