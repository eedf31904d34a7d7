"""Another codec: one module and one row."""

from __future__ import annotations

import base64
import io
import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rayserve_app.app import App, create_app
from rayserve_app.errors import ConfigurationError
from rayserve_app.settings.codecs import CODECS, Codec
from rayserve_app.settings.model import ModelSettings, parse_settings
from rayserve_app.settings.protocols import PROTOCOLS
from tests.protocols import call, create_model

ZIP = "application/zip"

MODULE = '''
"""Archives of images."""

import io
import zipfile

MEDIA_TYPE = "application/zip"


def is_stream(data):
    return bytes(data[:2]) == b"PK"


def decode(data, *, max_items):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [archive.read(name) for name in archive.namelist()[:max_items]]
'''


@pytest.fixture
def codec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "zipped_images.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "zipped_images", raising=False)
    monkeypatch.setitem(CODECS, "zip", Codec(("bytes", "image"), "zipped_images"))
    return "zip"


def archive(*files: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        for index, data in enumerate(files):
            opened.writestr(str(index), data)
    return file.getvalue()


def create(codec: str) -> App:
    def texts(items: Sequence[Any]) -> list[Any]:
        return [f"got {bytes(item).decode()}" for item in items]

    return create_app(
        create_model(texts, input={"type": "bytes", "codec": codec}, protocols=list(PROTOCOLS))
    )


async def answer(app: App, path: str, body: bytes, content_type: str) -> str:
    response = await call(app, "POST", path, content=body, headers={"content-type": content_type})
    assert response.status_code == 200, response.text
    return response.text


TWO = archive(b"one", b"two")
TEXT = base64.b64encode(TWO).decode()

JSON_WAYS: dict[str, tuple[str, Any]] = {
    "clipper": ("/predict", {"input_batch": [TEXT]}),
    "sagemaker": ("/invocations", [TEXT]),
    "sagemaker_runtime": ("/endpoints/m/invocations", {"b64": TEXT}),
    "tensorflow_serving": ("/v1/models/m:predict", {"instances": [{"b64": TEXT}]}),
    "open_inference": (
        "/v2/models/m/infer",
        {"inputs": [{"name": "bytes", "datatype": "BYTES", "shape": [1], "data": [TEXT]}]},
    ),
    "simple_tensorflow_serving": ("/", {"data": {"bytes": [TEXT]}}),
    "cluster_serving": ("/predict", {"instances": [{"image": TEXT}]}),
    "multi_model_server": ("/predictions/m", TEXT),
}


def test_every_protocol_is_asked() -> None:
    assert set(JSON_WAYS) == set(PROTOCOLS)


@pytest.mark.parametrize("protocol", JSON_WAYS)
async def test_every_protocol_takes_it_in_json(codec: str, protocol: str) -> None:
    path, document = JSON_WAYS[protocol]
    body = json.dumps(document).encode()
    text = await answer(create(codec), path, body, "application/json")
    assert "got one" in text
    assert "got two" in text


@pytest.mark.parametrize(
    "path", ["/invocations", "/endpoints/m/invocations", "/predictions/m", "/predict"]
)
@pytest.mark.parametrize("content_type", [ZIP, "application/octet-stream"])
async def test_its_bytes_are_a_body(codec: str, path: str, content_type: str) -> None:
    text = await answer(create(codec), path, TWO, content_type)
    assert "got one" in text
    assert "got two" in text


async def test_it_is_described_with_its_media_type(codec: str) -> None:
    document = (await call(create(codec), "GET", "/openapi.json")).json()
    content = document["paths"]["/invocations"]["post"]["requestBody"]["content"]
    assert ZIP in content
    other = (await call(create("raw"), "GET", "/openapi.json")).json()
    assert ZIP not in other["paths"]["/invocations"]["post"]["requestBody"]["content"]


def test_settings_know_it_while_it_is_there(codec: str) -> None:
    declared = {"model": {"input": {"type": "image", "codec": codec}}}
    assert parse_settings(ModelSettings, declared).input.codec == codec
    with pytest.raises(ConfigurationError, match=r"does not carry type 'string'; known: raw"):
        parse_settings(ModelSettings, {"model": {"input": {"type": "string", "codec": codec}}})
