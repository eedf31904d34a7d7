"""What the bench compares frameworks by: its own models, their rows, and how a start is cold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from rayserve_app.bench import networks, pictures, texture_package
from rayserve_app.bench.applications import build_config
from rayserve_app.bench.framework_loop import LoopEnded, framework_loop, load_model
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.models import BANDS, band_energies
from rayserve_app.codecs import image
from rayserve_app.errors import LoadError
from rayserve_app.types import Invocation, Reply

APP_YAML = Path(__file__).parents[2] / "configs" / "app.yaml"


@pytest.fixture(scope="module")
def built_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models")
    networks.build([*networks.BUILDERS, "minimal"], directory)
    return directory


@pytest.mark.parametrize("name", ["tensorflow-network", "torch-network"])
def test_the_networks_answer_unlike_images_unlike(
    name: str, built_models: Path, tmp_path: Path
) -> None:
    model = load_model(_write_config(name, built_models, tmp_path), name)
    preprocess = model.select().inputs.preprocess
    images = [np.full((224, 224, 3), value, np.uint8) for value in (0, 255)]
    answers = model.select().predict([preprocess(image) for image in images])
    model.close()
    assert isinstance(answers, dict)
    (scores,) = answers.values()
    assert scores.shape == (2, networks.CLASSES)
    assert np.isfinite(scores).all()
    assert not np.allclose(scores[0], scores[1])


def test_the_package_answers_what_the_closure_does(built_models: Path, tmp_path: Path) -> None:
    path = _write_config("texture-package", built_models, tmp_path)
    body = pictures.png(texture_package.TEXTURE_SIDE)
    pixels = image.decode(body, max_pixels=10**6)
    model = load_model(path, "texture-package")
    (reply,) = model.select().predict([Invocation(body, "image/png")])
    model.close()
    assert isinstance(reply, Reply)
    assert json.loads(reply.body) == band_energies(pixels[None].astype(np.float32) / 255)[0]


def _write_config(name: str, models: Path, directory: Path) -> Path:
    path = directory / "bench.yaml"
    path.write_text(yaml.safe_dump(build_config({name}, APP_YAML, 1234, models)))
    return path


def test_a_model_that_cannot_be_built_is_told(tmp_path: Path) -> None:
    (tmp_path / "texture-package").mkdir()
    with pytest.raises(
        LoadError, match=r"cannot be built \(texture-package\): got FileExistsError"
    ):
        networks.build(["texture-package"], tmp_path)


def test_a_wave_is_found_in_its_band_of_frequencies() -> None:
    """8 periods in 64 pixels are a frequency of 1/8, a quarter of the highest; the mean of |cos|
    over these samples is (1 + 2 cos 45 deg) / 4."""
    wave = np.cos(2 * np.pi * 8 * np.arange(64) / 64)
    picture = np.broadcast_to(wave[:, None, None], (64, 64, 3))
    (energies,) = band_energies(picture[None])
    expected = np.zeros(BANDS)
    expected[BANDS // 4] = (1 + 2**0.5) / 4
    assert energies == pytest.approx(expected, abs=1e-9)


@pytest.fixture
def closure(tmp_path: Path) -> Instance:
    """An instance, not started, that declares a closure `mean`."""
    image = {"type": "image", "size": [8, 8]}
    model = {"function": "tests.serve.closures:mean_colors", "input": image}
    config = {
        "applications": [
            {"name": "mean", "import_path": "deployments.closure:build", "args": {"model": model}}
        ]
    }
    instance = Instance(config, None)
    instance.config_path = tmp_path / "bench.yaml"
    instance.config_path.write_text(yaml.safe_dump(config))
    return instance


async def test_a_loop_in_a_process_of_its_own_is_asked_again_and_again(closure: Instance) -> None:
    with framework_loop(closure, "mean") as loop:
        paces = [await loop(size, 0.05) for size in (1, 4)]
    assert all(pace.per_s > 0 and pace.p50_ms > 0 for pace in paces)


async def test_a_loop_whose_model_is_not_declared_ends(closure: Instance) -> None:
    with (
        framework_loop(closure, "median") as loop,
        pytest.raises(LoopEnded, match="The loop of median ended"),
    ):
        await loop(1, 0.05)
