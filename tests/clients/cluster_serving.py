"""What Cluster Serving's Python client does over HTTP, with `requests` instead of an old httpx.

Source: bigdl-serving 2.4, bigdl/serving/client.py: it posts bytes without a Content-Type to
`/predict`, and reads the answer with three nested `json.loads`.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import requests
from numpy.typing import NDArray

TIMEOUT_S = 60


def http_json_to_ndarray(text: str, index: int = 0) -> NDArray[Any]:
    """Read one prediction as the client's function of that name does."""
    result = json.loads(json.loads(json.loads(text)["predictions"][index])["value"])
    return np.array(result["data"]).reshape(result["shape"])


def strip(prediction: str) -> str:
    """Return what `InputQueue.predict` makes of a prediction: it strips sets of characters."""
    return prediction.lstrip("{value=").rstrip("}")


def post(url: str, body: dict[str, Any] | str) -> requests.Response:
    content = body if isinstance(body, str) else json.dumps(body)
    return requests.post(url, data=content.encode(), timeout=TIMEOUT_S)


def check_image(url: str, model: str, image: bytes, expected: NDArray[Any]) -> None:
    """An image under any key, and two of them, have the answer of the model.

    Args:
        url: where the protocol's paths begin: at the model, or at a gateway of which it is the
            default model.
        expected: the model's one output for the image.
    """
    text = base64.b64encode(image).decode()
    (version, *_) = [each["modelVersion"] for each in describe(url, model)]
    for path in ("predict", f"models/{model}/versions/{version}/predict"):
        answer = post(f"{url}/{path}", {"instances": [{"image": text}, {"t": {"b64": text}}]})
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "text/plain; charset=UTF-8"
        for index in (0, 1):
            found = http_json_to_ndarray(answer.text, index)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def check_errors(url: str, model: str) -> None:
    """What is wrong is told as upstream's clients know it."""
    wrong = post(f"{url}/predict", {"instances": []})
    assert wrong.status_code == 400
    assert wrong.text.startswith("Wrong content format.\nDetails: no instance can be found")
    unknown = post(f"{url}/models/{model}/versions/no-such/predict", {"instances": [{"a": 1}]})
    assert unknown.status_code == 404
    assert unknown.text.startswith("Model Not Found. Err: model not exist.")


def check_models(url: str, model: str) -> None:
    """The model describes itself."""
    (found, *_) = describe(url, model)
    assert (found["type"], found["modelName"]) == ("ClusterServingMetaData", model)
    version = found["modelVersion"]
    one = requests.get(f"{url}/models/{model}/versions/{version}", timeout=TIMEOUT_S)
    assert one.json() == found


def describe(url: str, model: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = requests.get(f"{url}/models/{model}", timeout=TIMEOUT_S).json()
    return found
