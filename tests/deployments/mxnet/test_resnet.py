"""The example's embedding against MXNet called by hand, with its own image functions, for real
photographs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import skimage.data
from sklearn.datasets import load_sample_images

from deployments.mxnet.backend import MXNetBackend, MXNetSettings
from rayserve_app.artifacts.mxnet_environment import import_mxnet
from rayserve_app.codecs.json_metadata import EncodedImage
from rayserve_app.examples import resnet
from rayserve_app.inference.model import Model
from rayserve_app.settings.model import parse_settings
from rayserve_app.types import TensorSpec

mx = import_mxnet()

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

IMAGE = {
    "type": "image",
    "resize": "short_side_crop",
    "short_side": 256,
    "size": [224, 224],
    "interpolation": "cubic",
    "scale": 1 / 255,
    "mean": MEAN,
    "std": STD,
    "layout": "CHW",
}


def photographs() -> dict[str, bytes]:
    """JPEGs from 640 x 427 down to 120 x 80 pixels, upright and lying."""
    china, flower = load_sample_images().images
    pixels = {
        "china": china,
        "flower": flower,
        "astronaut": skimage.data.astronaut(),
        "cat": skimage.data.chelsea(),
        "coffee": skimage.data.coffee().transpose(1, 0, 2),
        "small": flower[200:320, 300:380],
    }
    return {
        name: simplejpeg.encode_jpeg(
            np.ascontiguousarray(image), quality=92, colorsubsampling="420"
        )
        for name, image in pixels.items()
    }


PHOTOGRAPHS = photographs()


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return resnet.build(tmp_path_factory.mktemp("resnet-embedding"))


@pytest.fixture(scope="module")
def by_hand(params: Path) -> dict[str, Any]:
    """Each photograph's embedding, as MXNet's tutorials compute it."""
    net = mx.gluon.model_zoo.vision.get_model("resnet18_v2")
    net.load_parameters(str(params))

    def embed(jpeg: bytes) -> Any:
        image = mx.image.resize_short(mx.image.imdecode(jpeg), 256)
        image, _ = mx.image.center_crop(image, (224, 224))
        image = mx.image.color_normalize(
            image.astype("float32") / 255, mx.nd.array(MEAN), mx.nd.array(STD)
        )
        return net.features(image.transpose((2, 0, 1)).expand_dims(0)).asnumpy()[0]

    return {name: embed(jpeg) for name, jpeg in PHOTOGRAPHS.items()}


@pytest.fixture(scope="module")
def model(params: Path) -> Model:
    declared = {"path": str(params), "zoo": "resnet18_v2", "layer": "features", "input": IMAGE}
    settings = parse_settings(MXNetSettings, {"model": declared})
    model = Model(settings, MXNetBackend(settings), name="resnet-embedding")
    model.load()
    model.warm_up()
    return model


def embed(model: Model, jpegs: list[bytes]) -> list[Any]:
    async def predict() -> list[Any]:
        return await model.predict([EncodedImage(jpeg, {}) for jpeg in jpegs])

    return [result.value["features"] for result in asyncio.run(predict())]


def difference(actual: Any, expected: Any) -> float:
    """Return the largest difference in terms of the embedding's largest number."""
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_an_embedding_is_what_mxnet_makes_of_the_photograph(
    model: Model, by_hand: dict[str, Any], name: str
) -> None:
    (actual,) = embed(model, [PHOTOGRAPHS[name]])
    assert (actual.shape, actual.dtype) == ((512,), np.float32)
    assert difference(actual, by_hand[name]) < 1e-4


def test_so_it_is_when_they_come_in_one_batch(model: Model, by_hand: dict[str, Any]) -> None:
    names = list(PHOTOGRAPHS)
    for name, actual in zip(names, embed(model, [PHOTOGRAPHS[n] for n in names]), strict=True):
        assert difference(actual, by_hand[name]) < 1e-4, name


def test_metadata_of_an_image_does_not_disturb(model: Model, by_hand: dict[str, Any]) -> None:
    pixels = model.inputs.decode(EncodedImage(PHOTOGRAPHS["cat"], {}))
    (actual,) = model.backend.predict([{"data": pixels, "name": "cat"}])["features"]
    assert difference(actual, by_hand["cat"]) < 1e-4


def test_photographs_are_told_apart_by_far_more(by_hand: dict[str, Any]) -> None:
    assert difference(by_hand["china"], by_hand["flower"]) > 0.05


def test_the_same_seed_makes_the_same_file(params: Path, tmp_path: Path) -> None:
    assert resnet.build(tmp_path).read_bytes() == params.read_bytes()


def test_metadata_follows_from_the_image_settings(model: Model) -> None:
    assert model.metadata.inputs == (TensorSpec("data", "float32", (-1, 3, 224, 224)),)
    assert model.metadata.outputs == (TensorSpec("features", "float32", (-1, 512)),)
