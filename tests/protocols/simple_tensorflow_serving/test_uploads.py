"""Images that are uploaded as forms."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rayserve_app.app import create_app
from tests.protocols import call, create_model
from tests.protocols.simple_tensorflow_serving.template_model import (
    ALONE,
    PHOTO,
    SMALL_PHOTO,
    create_image_model,
    jpeg,
    mean_of,
    upload,
)

# Uploads


@pytest.mark.parametrize(
    ("kind", "codec"),
    [
        ("string", "base64_urlsafe"),
        ("string", "raw"),
        ("string", "base64"),
        ("bytes", "raw"),
        ("bytes", "base64"),
        ("image", "raw"),
    ],
)
async def test_an_uploaded_image_becomes_what_the_model_declares(kind: str, codec: str) -> None:
    seen: list[Any] = []

    def keep(items: Sequence[Any]) -> list[int]:
        seen.extend(items)
        return [len(items)] * len(items)

    model = create_model(keep, input={"type": kind, "codec": codec}, protocols=ALONE, warm_up=False)
    response = await upload(create_app(model), {"image": ("a/../b.jpg", SMALL_PHOTO)})
    assert response.status_code == 200, response.text
    (item,) = seen
    if kind == "image":
        assert item.shape == (64, 64, 3)
    elif kind == "bytes":
        assert bytes(item) == SMALL_PHOTO
    else:
        encode = base64.b64encode if codec == "base64" else base64.urlsafe_b64encode
        assert item == encode(SMALL_PHOTO).decode()


async def test_of_several_files_image_comes_first() -> None:
    app = create_app(create_image_model())
    black, white = (jpeg(np.full((8, 8, 3), value, np.uint8)) for value in (0, 255))
    files = [
        ("images", ("1.jpg", white)),
        ("image", ("2.jpg", black)),
        ("images", ("3.jpg", white)),
        ("image", ("4.jpg", black)),
    ]
    response = await upload(app, files)
    assert response.json() == {"prediction": [0, 0, 255, 255]}


@pytest.mark.parametrize("name", ["m", "default", ""])
async def test_the_name_in_a_form_may_be_the_models(name: str) -> None:
    app = create_app(create_image_model())
    response = await upload(app, {"image": PHOTO}, data={"model_name": name})
    assert response.json() == {"prediction": [mean_of(PHOTO)]}


async def test_another_name_in_a_form_is_refused() -> None:
    """Upstream ignores it, and its default model answers for the other."""
    app = create_app(create_image_model())
    response = await upload(app, {"image": PHOTO}, data={"model_name": "other"})
    assert response.status_code == 400
    assert response.json() == {"error": "Invalid model name: other, available models: ['m']"}


@pytest.mark.parametrize(
    "files",
    [{"other": PHOTO}, {"image": ("", b"")}, {"image": (None, "")}],
    ids=["other-name", "none-chosen", "empty"],
)
async def test_a_form_without_an_image_is_refused(files: Any) -> None:
    response = await upload(create_app(create_image_model()), files)
    assert response.status_code == 400
    assert response.json() == {"error": "Need to set image or images for form-data"}


async def test_a_form_that_is_cut_is_refused() -> None:
    response = await call(
        create_app(create_image_model()),
        "POST",
        "/",
        content=b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nx',
        headers={"content-type": "multipart/form-data; boundary=b"},
    )
    assert response.status_code == 400
    assert "cut" in response.json()["error"]
