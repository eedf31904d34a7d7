"""Clients of simple_tensorflow_serving: `requests` and curl as its guide uses them, and the
generated ones.

`base_url` is what clients post to: the model's prefix, or the gateway.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import requests

PATH = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
"""With this environment's programs, of which Go is one."""

COMMANDS = {
    "bash": ("client.sh", ["bash"]),
    "python": ("client.py", ["python3"]),
    "golang": ("client.go", ["go", "run"]),
    "javascript": ("client.js", ["node"]),
}


def predict_by_json(base_url: str, model: str, images: list[bytes], **fields: Any) -> Any:
    """Send images as the guide's Python client does; return the answer."""
    texts = [base64.urlsafe_b64encode(image).decode("utf-8") for image in images]
    request = {"model_name": model, "data": {"images": texts}, **fields}
    response = requests.post(base_url, json=request, timeout=30)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.content.endswith(b"\n")
    return response.json()


def predict_by_form(base_url: str, images: list[bytes], **fields: str) -> Any:
    """Upload images as `requests` does; return the answer."""
    files = [("images", ("photo.jpg", image, "image/jpeg")) for image in images]
    response = requests.post(base_url, files=files, data=fields, timeout=30)
    assert response.status_code == 200, response.text
    return response.json()


def predict_by_curl(base_url: str, image: bytes, folder: Path) -> Any:
    """Upload an image as the guide's curl command does; return the answer."""
    file = folder / "1.jpg"
    file.write_bytes(image)
    command = ["curl", "-sS", "-X", "POST", "-F", f"image=@{file}", "-F", "model_version=1"]
    return json.loads(run([*command, base_url]).stdout)


def check_images(base_url: str, model: str, image: bytes, folder: Path) -> None:
    """Check that an image has one answer, whichever way it comes."""
    one = predict_by_json(base_url, model, [image])
    assert predict_by_form(base_url, [image]) == one
    assert predict_by_curl(base_url, image, folder) == one
    two = predict_by_json(base_url, model, [image, image])
    assert predict_by_form(base_url, [image, image]) == two
    assert two == {name: values * 2 for name, values in one.items()}


def check_models(base_url: str, model: str) -> None:
    """Check what the server says of a model; `/v1/models/{model}` may be TF Serving's."""
    listed = requests.get(f"{base_url}/v1/models", timeout=30).json()
    (described,) = (each for each in listed if each["model_name"] == model)
    assert described["model_version_list"]
    assert described["model_signature"]["inputs"]
    assert requests.get(f"{base_url}/health", timeout=30).text == "healthy"


def check_generated_client(
    base_url: str, model: str, language: str, folder: Path, **environment: str
) -> Any:
    """Run a generated client, check that its answer is that to the generated example, and return
    it. Environment variables are for servers with basic auth."""
    user = tuple(environment.values()) or None
    url = f"{base_url}/v1/models/{model}"
    example = requests.get(f"{url}/gen_json", auth=user, timeout=30).json()
    expected = requests.post(base_url, json={"model_name": model, **example}, auth=user, timeout=30)
    assert expected.status_code == 200, expected.text
    source = requests.get(f"{url}/gen_client", params={"language": language}, auth=user, timeout=30)
    assert source.status_code == 200, source.text
    name, command = COMMANDS[language]
    (folder / name).write_text(source.text)
    answer = run([*command, str(folder / name)], **environment)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout) == expected.json()
    return expected.json()


def is_installed(language: str) -> bool:
    return shutil.which(COMMANDS[language][1][0], path=PATH) is not None


RUN_S = 280
"""Go builds its standard library at first: 34 s of a core that may be shared."""


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    # Where Go keeps what it builds.
    own = {"PATH": PATH, "HOME": os.environ.get("HOME", "/tmp")}
    return subprocess.run(
        command,
        env=own | environment,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
