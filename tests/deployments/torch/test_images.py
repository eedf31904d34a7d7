"""Images that are normalised where a PyTorch model runs, against those normalised as they are
decoded; the photographs are scikit-image's.

No test needs a GPU; where there is one, all of them run on it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image

from deployments.torch.backend import TorchBackend, TorchSettings
from rayserve_app.errors import ConfigurationError, ShapeMismatch
from rayserve_app.inference.model import Model
from rayserve_app.settings.model import parse_settings
from rayserve_app.types import TensorSpec

torch = pytest.importorskip("torch")

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
PHOTOS = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]
SIZE = [48, 64]
IMAGE = {"type": "image", "size": SIZE, "layout": "CHW", "scale": 1 / 255}

NORMALIZATIONS: list[dict[str, Any]] = [
    {"scale": 1 / 255},
    {"mean": [123.7, 116.3, 103.5]},
    {"std": [58.4, 57.1, 57.4]},
    {"scale": 1 / 255, "mean": MEAN, "std": STD},
]


class Same(torch.nn.Module):
    """Answers what it is given."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.clone()


class Types(torch.nn.Module):
    """Answers whether a batch is of float32."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        is_float32 = image.dtype == torch.float32
        return torch.full(image.shape[:1], is_float32, device=image.device)


class Means(torch.nn.Module):
    """(N, 3, H, W) to (N, 3)."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean([2, 3])


def create_model(folder: Path, module: str = "Same", **settings: Any) -> Model:
    """Return a loaded model of the module, or of the program `settings.path`."""
    declared = {"input": IMAGE, **settings}
    if "path" not in declared:
        torch.save({}, folder / "model.pth")
        declared |= {"path": str(folder / "model.pth"), "module": f"{__name__}:{module}"}
    parsed = parse_settings(TorchSettings, {"model": declared})
    model = Model(parsed, TorchBackend(parsed), name="images")
    model.load()
    model.warm_up()
    return model


def exported(path: Path, dtype: torch.dtype) -> dict[str, Any]:
    batch = torch.export.Dim("batch")
    zeros = torch.zeros(2, 3, *SIZE, dtype=dtype)
    program = torch.export.export(Same(), (zeros,), dynamic_shapes=({0: batch},))
    torch.export.save(program, path / "model.pt2")
    return {"path": str(path / "model.pt2"), "trusted": True}


def encoded(photo: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "PNG")
    return file.getvalue()


async def predict(model: Model, values: Sequence[Any]) -> Any:
    """Return the first output for values as Python callers hand them over."""
    inputs = model.inputs
    items = [inputs.from_object(value, path=f"[{place}]") for place, value in enumerate(values)]
    results = await model.predict(items)
    return np.stack([next(iter(result.value.values())) for result in results])  # type: ignore[union-attr]


async def both(folder: Path, values: Sequence[Any], **settings: Any) -> tuple[Any, Any]:
    """Return the answers of images normalised on the device, and of those that come normalised."""
    answers = []
    for on_device in (True, False):
        model = create_model(folder, normalize_on_device=on_device, **settings)
        assert model.inputs.preprocess.dtype == (np.uint8 if on_device else np.float32)
        answers.append(await predict(model, values))
        model.close()
    return answers[0], answers[1]


@pytest.mark.parametrize("normalization", NORMALIZATIONS, ids=" ".join)
@pytest.mark.parametrize("color", ["RGB", "BGR", "gray"])
@pytest.mark.parametrize("layout", ["HWC", "CHW"])
async def test_both_ways_give_the_same_numbers(
    tmp_path: Path, normalization: dict[str, Any], color: str, layout: str
) -> None:
    declared = {"type": "image", "size": SIZE, "color": color, "layout": layout, **normalization}
    on_device, expected = await both(tmp_path, list(map(encoded, PHOTOS)), input=declared)
    assert on_device.dtype == np.float32
    assert on_device.shape == expected.shape
    largest = np.abs(expected).max()
    np.testing.assert_allclose(on_device, expected, rtol=1e-6, atol=1e-6 * largest)


@pytest.mark.parametrize("normalization", NORMALIZATIONS, ids=" ".join)
async def test_the_numbers_are_those_that_the_settings_say(
    tmp_path: Path, normalization: dict[str, Any]
) -> None:
    photo = skimage.data.astronaut()
    declared = {"type": "image", **normalization}
    model = create_model(tmp_path, input=declared, normalize_on_device=True)
    (actual,) = await predict(model, [encoded(photo)])
    scaled = photo * normalization.get("scale", 1.0) - np.array(normalization.get("mean", 0.0))
    expected = scaled / np.array(normalization.get("std", 1.0))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
async def test_half_precision_is_rounded_after_normalising(tmp_path: Path, precision: str) -> None:
    """The last bit of float32 may tip the last one of a half: 2^-8 of a bfloat16."""
    declared = IMAGE | {"mean": MEAN, "std": STD}
    images = list(map(encoded, PHOTOS))
    on_device, expected = await both(tmp_path, images, input=declared, precision=precision)
    np.testing.assert_allclose(on_device, expected, rtol=2**-7)
    assert np.mean(on_device != expected) < 0.001


async def test_channels_last_changes_no_answer(tmp_path: Path) -> None:
    images = list(map(encoded, PHOTOS))
    on_device, expected = await both(tmp_path, images, channels_last=True)
    np.testing.assert_allclose(on_device, expected, rtol=1e-6)


async def test_the_model_gets_float32(tmp_path: Path) -> None:
    model = create_model(tmp_path, "Types", normalize_on_device=True)
    assert (await predict(model, [encoded(PHOTOS[0])])).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
async def test_exported_programs_of_floats_take_pixels(tmp_path: Path, dtype: torch.dtype) -> None:
    program = exported(tmp_path, dtype)
    on_device, expected = await both(tmp_path, list(map(encoded, PHOTOS)), **program)
    assert on_device.dtype == expected.dtype
    np.testing.assert_allclose(on_device, expected, rtol=2**-7 if dtype == torch.bfloat16 else 1e-6)


async def test_exported_programs_say_what_they_were_exported_with(tmp_path: Path) -> None:
    model = create_model(tmp_path, **exported(tmp_path, torch.float32), normalize_on_device=True)
    assert model.metadata.inputs == (TensorSpec("image", "float32", (-1, 3, *SIZE)),)


def test_an_image_of_another_size_than_the_programs_is_refused(tmp_path: Path) -> None:
    declared = IMAGE | {"size": [8, 8]}
    program = exported(tmp_path, torch.float32)
    with pytest.raises(ShapeMismatch, match=r"expected uint8 \(3, 48, 64\), got uint8 \(3, 8, 8\)"):
        create_model(tmp_path, **program, input=declared, normalize_on_device=True)


def test_a_program_of_integers_gets_no_floats(tmp_path: Path) -> None:
    """It would cut them to integers, so they are refused as those of a CPU are."""
    program = exported(tmp_path, torch.uint8)
    with pytest.raises(ShapeMismatch, match=r"expected uint8 .* got float32"):
        create_model(tmp_path, **program, normalize_on_device=True)


async def test_what_comes_as_floats_is_normalised_already(tmp_path: Path) -> None:
    photo = skimage.data.astronaut()[::8, ::8][:48]
    own = photo.transpose(2, 0, 1).astype(np.float32) / 255
    as_json = json.loads(json.dumps(own.tolist()))
    model = create_model(tmp_path, normalize_on_device=True)
    actual = await predict(model, [photo, own, encoded(photo), as_json])
    np.testing.assert_allclose(actual, np.stack([own] * 4), rtol=1e-6)


async def test_images_with_metadata(tmp_path: Path) -> None:
    declared = IMAGE | {"codec": "json_metadata"}
    images = list(map(encoded, PHOTOS))
    on_device, expected = await both(tmp_path, images, input=declared)
    np.testing.assert_allclose(on_device, expected, rtol=1e-6)


async def test_images_of_their_own_sizes(tmp_path: Path) -> None:
    declared = {"type": "image", "layout": "CHW", "mean": MEAN}
    small = [encoded(photo[::8, ::8]) for photo in PHOTOS[:1]]
    on_device, expected = await both(tmp_path, small, input=declared)
    np.testing.assert_allclose(on_device, expected, rtol=1e-6)


async def test_classes_are_the_same(tmp_path: Path) -> None:
    classes = {"labels": ["red", "green", "blue"], "top_n": 1}
    for on_device in (True, False):
        model = create_model(tmp_path, "Means", classes=classes, normalize_on_device=on_device)
        (item,) = model.inputs.from_json_item(encoded(PHOTOS[1]))
        (result,) = await model.predict([item])
        (best,) = result.value  # type: ignore[union-attr]
        assert best["label"] == "red"
        assert best["score"] == pytest.approx(_redness(PHOTOS[1]), rel=0.01)


def _redness(photo: np.ndarray) -> float:
    return float(photo[:, :, 0].mean() / 255)


async def test_an_answer_that_is_kept_is_that_of_the_same_pixels(tmp_path: Path) -> None:
    model = create_model(tmp_path, "Means", cache={"max_mb": 1}, normalize_on_device=True)
    pixels = skimage.data.astronaut()[:48, :64]
    zeros = np.zeros((3, *SIZE), np.float32)
    for _ in range(2):
        actual = await predict(model, [np.zeros_like(pixels), zeros, pixels])
        np.testing.assert_allclose(actual[:2], 0)
        np.testing.assert_allclose(actual[2], pixels.mean((0, 1)) / 255, rtol=1e-5)


def test_a_gpu_normalises_and_a_cpu_does_not_unless_told(tmp_path: Path) -> None:
    model = create_model(tmp_path)
    assert model.backend.normalizes_images == torch.cuda.is_available()
    unscaled = {"type": "image", "size": SIZE}
    assert not create_model(tmp_path, input=unscaled).backend.normalizes_images


@pytest.mark.parametrize("declared", [{"type": "tensor"}, {"type": "image", "size": SIZE}])
def test_only_images_that_are_scaled_can_be_normalised(declared: dict[str, Any]) -> None:
    model = {"path": "model.pt", "input": declared, "normalize_on_device": True}
    with pytest.raises(ConfigurationError, match="needs 'scale', 'mean' or 'std'"):
        parse_settings(TorchSettings, {"model": model})
