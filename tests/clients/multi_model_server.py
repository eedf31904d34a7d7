"""What Multi Model Server's users do, with `requests` and curl, as its README and documentation
show it.

`url` is where the paths begin: at the model, or at a gateway.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import requests

TIMEOUT_S = 60


def curl(*arguments: str) -> Any:
    """Return the JSON that curl gets."""
    command = ["curl", "-sS", "--max-time", str(TIMEOUT_S), *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def check_image(url: str, model: str, image: bytes, folder: Path) -> None:
    """An image has one answer, as a file that is uploaded, as a form, and by PUT."""
    place = f"{url}/predictions/{model}"
    file = folder / "kitten.jpg"
    file.write_bytes(image)
    expected = requests.post(place, data=image, timeout=TIMEOUT_S).json()
    assert curl("-X", "POST", place, "-T", str(file)) == expected
    assert curl(place, "-T", str(file)) == expected
    assert curl("-X", "POST", place, "-F", f"data=@{file}") == expected
    form = requests.post(
        place, files={"data": ("kitten.jpg", image, "image/jpeg")}, timeout=TIMEOUT_S
    )
    assert form.json() == expected
    assert form.headers["x-request-id"]
    assert form.headers["cache-control"] == "no-cache; no-store, must-revalidate, private"


def check_description(url: str, model: str) -> None:
    """The model's API is described."""
    document = curl("-X", "OPTIONS", f"{url}/predictions/{model}")
    assert document["openapi"] == "3.0.1"
    assert list(document["paths"]) == [f"/predictions/{model}"]
    assert "/predictions/{model_name}" in curl(f"{url}/api-description")["paths"]


def check_errors(url: str, model: str) -> None:
    """Errors are objects of a code, a Java class and a message."""
    unknown = requests.options(f"{url}/predictions/no-such", timeout=TIMEOUT_S)
    assert (unknown.status_code, unknown.json()["code"]) == (404, 404)
    assert unknown.json()["type"] == "ModelNotFoundException"
    wrong = requests.post(
        f"{url}/predictions/{model}",
        data=b"a",
        headers={"content-type": "application/no-such"},
        timeout=TIMEOUT_S,
    )
    assert wrong.status_code == 415
    assert wrong.json()["type"] == "UnsupportedMediaTypeException"
    assert wrong.text.endswith("}\n")
