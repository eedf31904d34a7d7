"""simple_tensorflow_serving's clients against a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.clients import simple_tensorflow_serving as clients
from tests.protocols.servers import serving
from tests.protocols.simple_tensorflow_serving.template_model import (
    PHOTO,
    create_image_model,
    create_template_model,
)


@pytest.fixture(scope="module")
def images_url() -> Iterator[str]:
    with serving(create_image_model()) as url:
        yield url


@pytest.fixture(scope="module")
def tensors_url() -> Iterator[str]:
    with serving(create_template_model()) as url:
        yield url


def test_an_image_has_one_answer_whichever_way_it_comes(images_url: str, tmp_path: Path) -> None:
    clients.check_images(images_url, "m", PHOTO, tmp_path)


def test_models_are_described(images_url: str, tensors_url: str) -> None:
    clients.check_models(images_url, "m")
    clients.check_models(tensors_url, "m")


@pytest.mark.parametrize("language", list(clients.COMMANDS))
@pytest.mark.parametrize("url", ["images_url", "tensors_url"])
def test_a_generated_client_runs(
    url: str, language: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if not clients.is_installed(language):
        pytest.skip(f"{language} is not installed")
    clients.check_generated_client(request.getfixturevalue(url), "m", language, tmp_path)


@pytest.mark.parametrize("language", list(clients.COMMANDS))
def test_a_generated_client_brings_credentials(
    language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not clients.is_installed(language):
        pytest.skip(f"{language} is not installed")
    monkeypatch.setenv("M_PASSWORD", "p:ä$`'\"")
    auth = {"username": "ann", "password_variable": "M_PASSWORD"}
    model = create_template_model(protocol_settings={"simple_tensorflow_serving": auth})
    environment = {"STFS_AUTH_USERNAME": "ann", "STFS_AUTH_PASSWORD": "p:ä$`'\""}
    with serving(model) as url:
        assert requests.post(url, json={}, timeout=30).status_code == 401
        clients.check_generated_client(url, "m", language, tmp_path, **environment)


@pytest.mark.parametrize("language", ["bash", "python", "javascript"])
def test_a_generated_client_sends_a_large_request(language: str, tmp_path: Path) -> None:
    """More than fits into an argument of a command."""

    def total(items: Any) -> list[float]:
        return [float(item.sum()) for item in items]

    model = create_template_model(total, input={"type": "tensor", "shape": [100, 400, 3]})
    with serving(model) as url:
        answer = clients.check_generated_client(url, "m", language, tmp_path)
    assert answer == {"output": [120_000.0, 120_000.0]}
