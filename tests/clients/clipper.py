"""What Clipper's users write: `requests` against the query API, as its guides show it."""

from __future__ import annotations

import base64
import json
from typing import Any

import requests

HEADERS = {"Content-type": "application/json"}
TIMEOUT_S = 60


def query(url: str, path: str = "predict", **fields: Any) -> requests.Response:
    return requests.post(
        f"{url}/{path}", headers=HEADERS, data=json.dumps(fields), timeout=TIMEOUT_S
    )


def check_image(url: str, image: bytes, output: Any, version: str) -> None:
    """An image in base64 alone, as a batch of one, and as one of two gets the same output.

    Args:
        url: the application's, as `http://host:1337/app`; it takes encoded images.
        output: what it answers.
        version: the model's.
    """
    text = base64.b64encode(image).decode()
    single = query(url, input=text).json()
    assert single["output"] == output
    assert single["default"] is single["use_default"] is False
    assert "default_explanation" not in single
    one = query(url, "predict/", input_batch=[text]).json()
    assert one["output"] == output
    several = query(url, input_batch=[text, text]).json()["batch_predictions"]
    assert [each["output"] for each in several] == [output] * 2
    assert several[1]["query_id"] > several[0]["query_id"]
    assert query(url, input=text, version=version).json()["output"] == output


def check_errors(url: str, model: str) -> None:
    """A version that is not there, and a body that is no query, are told in upstream's words."""
    answer = query(url, input="", version="no-such")
    assert answer.status_code == 400
    assert answer.json() == {
        "error": "Query processing error",
        "cause": f"Requested version: no-such does not exist for model: {model}",
    }
    answer = query(url, inputs="")
    assert answer.status_code == 400
    assert answer.json()["error"] == "Json error"
    assert "does not have required keys input or input_batch" in answer.json()["cause"]


def check_feedback(url: str, image: bytes) -> None:
    """Feedback is acknowledged."""
    text = base64.b64encode(image).decode()
    answer = query(url, "update", uid=0, input=text, label=1.0)
    assert (answer.status_code, answer.text) == (200, "Feedback received? 1")


def check_metrics(url: str, model: str) -> None:
    """`ClipperConnection.start_clipper` polls the metrics, `inspect_instance` returns them."""
    answer = requests.get(f"{url}/metrics", timeout=TIMEOUT_S)
    assert answer.status_code == 200
    counters: dict[str, Any] = {}
    for counter in answer.json()["counters"]:
        counters |= counter
    assert f"app:{model}:num_predictions" in counters
