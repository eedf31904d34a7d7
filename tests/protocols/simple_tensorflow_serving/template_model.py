"""Upstream's template model, and one of images."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import numpy as np
import skimage
from PIL import Image

from rayserve_app.app import App, create_app
from rayserve_app.inference.backend import Predictor
from rayserve_app.inference.model import Model
from rayserve_app.settings.model import ModelSettings
from rayserve_app.types import Metadata, TensorSpec
from tests.protocols import FunctionBackend, call, create_model

ALONE = ["simple_tensorflow_serving"]


def jpeg(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


PHOTO = jpeg(skimage.data.astronaut())
"""130 KB in base64, with `-` and `_` in the urlsafe alphabet."""
SMALL_PHOTO = jpeg(skimage.data.chelsea()[:64, :64])


def mean_of(image: bytes) -> int:
    return int(np.asarray(Image.open(io.BytesIO(image)).convert("L")).mean())


# tensorflow_template_application_model, version 1, as upstream lists it.
TEMPLATE = Metadata(
    platform="TensorFlow",
    inputs=(TensorSpec("keys", "int32", (-1, 1)), TensorSpec("features", "float32", (-1, 9))),
    outputs=(
        TensorSpec("keys", "int32", (-1, 1)),
        TensorSpec("prediction", "int64", (-1,)),
        TensorSpec("softmax", "float32", (-1, 2)),
    ),
)


def classify(items: Sequence[Any]) -> Any:
    assert all(item["features"].dtype == np.float32 for item in items)
    softmax = np.float32([0.6155449748039246, 0.3844550549983978])
    return {
        "softmax": np.stack([softmax] * len(items)),
        "prediction": np.zeros(len(items), np.int64),
        "keys": np.stack([item["keys"] for item in items]),
    }


def create_template_model(function: Any = None, **options: Any) -> Model:
    """Return a stand-in for upstream's model of two tensors."""
    own: dict[str, Any] = {"input": {"type": "tensors"}, "protocols": ALONE}
    metadata = TEMPLATE if function is None else None
    return create_model(function or classify, metadata=metadata, **(own | options))


def create_image_model(**options: Any) -> Model:
    """Return a stand-in for upstream's deep_image_model, whose graph decodes urlsafe base64."""

    def predict(texts: Sequence[str]) -> Any:
        images = [base64.b64decode(text, b"-_", validate=True) for text in texts]
        return {"prediction": np.array([mean_of(image) for image in images])}

    metadata = Metadata(
        platform="TensorFlow",
        inputs=(TensorSpec("images", "string", (-1,)),),
        outputs=(TensorSpec("prediction", "int64", (-1,)),),
    )
    own: dict[str, Any] = {
        "input": {"type": "string", "codec": "base64_urlsafe"},
        "protocols": ALONE,
    }
    return create_model(predict, metadata=metadata, **(own | options))


def create_echo(kind: str, **options: Any) -> App:
    """Return the app of a model that answers what its items are."""

    def describe(items: Sequence[Any]) -> list[str]:
        return [str(item) for item in items]

    own: dict[str, Any] = {"input": {"type": kind}, "protocols": ALONE}
    return create_app(create_model(describe, **(own | options)))


async def post(app: App, fields: Any, path: str = "/", **headers: str) -> httpx.Response:
    return await call(app, "POST", path, json=fields, headers=headers)


async def upload(
    app: App, files: Any, path: str = "/", data: Mapping[str, str] | None = None
) -> httpx.Response:
    return await call(app, "POST", path, files=files, data=data or {})


# Versions and signatures


class Versioned(FunctionBackend):
    def versions(self) -> Mapping[str, Mapping[str, Predictor]]:
        def say(what: str) -> FunctionBackend:
            return FunctionBackend(lambda items: [what] * len(items))

        return {
            "3": {"serving_default": say("3"), "embed": say("3 embed")},
            "1": {"serving_default": say("1")},
        }


def create_versioned(**options: Any) -> App:
    backend = Versioned(lambda items: items)
    fields = {"input": {"type": "string"}, "protocols": ALONE, **options}
    model = Model(ModelSettings.model_validate(fields), backend, name="m")
    model.load()
    model.warm_up()
    return create_app(model)
