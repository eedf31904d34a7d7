"""The example models do what the configurations and the README say of them."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError
from skimage import data

from deployments.torch.backend import TorchBackend, TorchSettings
from rayserve_app.errors import MissingDependency
from rayserve_app.examples import build, darknet, digits, digits_torch, image_size
from rayserve_app.inference.model import Model

MADE = Path(__file__).parent.parent / "models"


def encode(image: np.ndarray | Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(file, format, **options)
    return file.getvalue()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built examples: those of `make` where there are any."""
    pytest.importorskip("tensorflow")
    if (MADE / ".built").exists():
        return MADE
    directory = tmp_path_factory.mktemp("models")
    build.build_models(directory)
    return directory


def call(models: Path, name: str, signature: str = "serving_default", **inputs: Any) -> Any:
    """Return a signature's outputs as TensorFlow gives them, without any of ours between."""
    import tensorflow as tf

    model = tf.saved_model.load(str(models / name))
    feed = {name: tf.constant(value) for name, value in inputs.items()}
    return {name: each.numpy() for name, each in model.signatures[signature](**feed).items()}


ASTRONAUT = data.astronaut()[:300, :200]
CAMERA = data.camera()[:90]


@pytest.mark.parametrize("form", [bytes, bytearray, lambda image: np.frombuffer(image, np.int8)])
def test_size_reads_bytes_and_clippers_arrays(form: Any) -> None:
    images = [encode(ASTRONAUT, "PNG"), encode(ASTRONAUT, "JPEG"), encode(CAMERA, "PNG")]
    assert image_size.size([form(image) for image in images]) == [
        (200, 300),
        (200, 300),
        (512, 90),
    ]


def test_size_reads_no_more_than_the_header() -> None:
    assert image_size.size([encode(ASTRONAUT, "JPEG")[:1000]]) == [(200, 300)]


def test_size_of_no_image_is_pillows_error() -> None:
    with pytest.raises(UnidentifiedImageError):
        image_size.size([b"no image"])


@pytest.mark.parametrize("form", [str, str.encode])
def test_size_of_json_ignores_the_metadata(form: Any) -> None:
    document = {
        "data": base64.b64encode(encode(ASTRONAUT, "PNG")).decode(),
        "format": "png",
        "name": "astronaut.png",
    }
    bare = {"data": base64.b64encode(encode(CAMERA, "JPEG")).decode()}
    texts = np.array([form(json.dumps(document)), form(json.dumps(bare))], object)
    assert image_size.size_of_json(texts) == [(200, 300), (512, 90)]


def test_yolov3_answers_the_three_heads_of_its_keras_model(models: Path) -> None:
    images = np.random.default_rng(0).random((2, 512, 512, 3)).astype(np.float32)
    outputs = call(models, "yolov3", images=images)
    assert {name: each.shape for name, each in outputs.items()} == {
        "conv2d_58": (2, 16, 16, 255),
        "conv2d_66": (2, 32, 32, 255),
        "conv2d_74": (2, 64, 64, 255),
    }
    expected = darknet.detector()(images, training=False)
    for name, answer in outputs.items():
        assert answer.dtype == np.float32
        np.testing.assert_allclose(answer, expected[name], rtol=1e-4, atol=1e-4)


def test_yolov3_tells_images_and_places_apart(models: Path) -> None:
    """A head that vanished, exploded or came from its biases alone would pass a test of shapes."""
    picture = data.astronaut().astype(np.float32) / 255
    outputs = call(models, "yolov3", images=np.stack([picture, picture[::-1]]))
    for answer in outputs.values():
        assert np.isfinite(answer).all()
        assert 0.01 < answer.std() < 100
        assert answer[0].std(axis=(0, 1)).min() > 1e-3
        assert np.abs(answer[0] - answer[1]).mean() > 1e-3


def test_yolov3_takes_other_sizes(models: Path) -> None:
    outputs = call(models, "yolov3", images=np.zeros((1, 64, 96, 3), np.float32))
    assert [outputs[name].shape[1:3] for name in darknet.OUTPUTS] == [(2, 3), (4, 6), (8, 12)]


def test_the_detector_at_full_width_is_yolov3() -> None:
    """75 convolutions and the 62,001,757 parameters that Keras ports of YOLOv3 print."""
    pytest.importorskip("tensorflow")
    model = darknet.detector(width=1)
    assert model.count_params() == 62_001_757
    assert sum(layer.name.startswith("conv2d_") for layer in model.layers) == 75


def test_the_same_seed_gives_the_same_detector() -> None:
    pytest.importorskip("tensorflow")
    first, again, other = (
        np.concatenate([weight.ravel() for weight in darknet.detector(seed=seed).get_weights()])
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.9


@pytest.fixture(scope="module")
def held_back() -> tuple[list[Image.Image], np.ndarray]:
    """Images of digits that were not trained on; the labels are scikit-learn's own."""
    pytest.importorskip("sklearn")
    images, labels = digits.held_back()
    return [Image.open(io.BytesIO(image)) for image in images], np.array(labels)


def as_urlsafe(images: list[Image.Image], format: str, mode: str, **options: Any) -> list[bytes]:
    encoded = [encode(image.convert(mode), format, **options) for image in images]
    return [base64.urlsafe_b64encode(each) for each in encoded]


@pytest.mark.parametrize(
    ("format", "mode", "options"),
    [
        ("PNG", "L", {}),
        ("PNG", "RGB", {}),
        ("PNG", "RGBA", {}),
        ("JPEG", "L", {"quality": 90}),
        ("JPEG", "RGB", {"quality": 90}),
    ],
)
def test_deep_image_model_reads_digits_that_it_never_saw(
    models: Path,
    held_back: tuple[list[Image.Image], np.ndarray],
    format: str,
    mode: str,
    options: dict[str, Any],
) -> None:
    images, labels = held_back
    texts = as_urlsafe(images, format, mode, **options)
    assert any(b"-" in text or b"_" in text for text in texts)
    outputs = call(models, "deep_image_model", images=texts)
    assert outputs["predict"].dtype == np.int64
    assert (outputs["predict"] == labels).mean() >= 0.95
    assert outputs["probability"].dtype == np.float32
    assert outputs["probability"].shape == (len(labels), 10)
    np.testing.assert_allclose(outputs["probability"].sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(outputs["probability"].argmax(axis=1), outputs["predict"])


def test_deep_image_model_answers_the_same_under_both_signatures(
    models: Path, held_back: tuple[list[Image.Image], np.ndarray]
) -> None:
    texts = as_urlsafe(held_back[0][:3], "PNG", "L")
    first = call(models, "deep_image_model", images=texts)
    second = call(models, "deep_image_model", "images", images=texts)
    np.testing.assert_array_equal(first["probability"], second["probability"])


def test_held_back_digits_are_a_fifth_of_the_data_in_ten_classes(
    held_back: tuple[list[Image.Image], np.ndarray],
) -> None:
    images, labels = held_back
    assert len(images) == len(labels) == 360
    assert {image.size for image in images} == {(64, 64)}
    assert set(labels) == set(range(10))


@pytest.fixture(scope="session")
def digits_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of `digits`: those of `make` where there are any."""
    pytest.importorskip("torch")
    made = MADE / "digits" / digits_torch.FILE
    if made.exists():
        return made
    folder = tmp_path_factory.mktemp("models") / "digits"
    digits_torch.build(folder)
    return folder / digits_torch.FILE


def test_digits_reads_digits_that_it_never_saw(digits_weights: Path) -> None:
    import torch
    from safetensors.torch import load_file

    network = digits_torch.create_network()
    network.load_state_dict(load_file(digits_weights))
    images, labels = digits_torch.held_back()
    with torch.inference_mode():
        logits = network.eval()(torch.from_numpy(images))
    assert logits.shape == (450, 10)
    assert (logits.argmax(1).numpy() == labels).mean() >= 0.97


DIGITS_MODEL = {
    "module": "rayserve_app.examples.digits_torch:create_network",
    "input": {"type": "image", "color": "gray", "size": [8, 8], "layout": "CHW", "scale": 16 / 255},
    "classes": {"labels": list("0123456789"), "top_n": 3, "softmax": True},
}


@pytest.mark.parametrize("form", ["image", "npy", "json"])
async def test_digits_takes_tensors_or_images_and_names_three_classes(
    digits_weights: Path, form: str
) -> None:
    settings = TorchSettings.model_validate(DIGITS_MODEL | {"path": str(digits_weights)})
    model = Model(settings, TorchBackend(settings), name="digits")
    model.load()
    model.warm_up()
    images, labels = digits_torch.held_back()
    pixels = (images[:, 0] * (255 / 16)).round().astype(np.uint8)
    if form == "image":
        encoded = [encode(digit, "PNG") for digit in pixels]
        payloads = [model.inputs.from_body(png, "image/png") for png in encoded]
    elif form == "npy":
        file = io.BytesIO()
        np.save(file, images)
        payloads = [model.inputs.from_body(file.getvalue(), "application/x-npy")]
    else:
        # 8 x 8 each, without the channel.
        document = json.dumps(images[:, 0].tolist()).encode()
        payloads = [model.inputs.from_body(document, "application/json")]
    items = [item for payload in payloads for item in payload.items]
    answers = [row.value for row in await model.predict(items)]
    model.close()
    best = [answer[0]["label"] for answer in answers]
    assert len(best) == len(labels)
    assert np.mean([label == str(digit) for label, digit in zip(best, labels, strict=True)]) >= 0.97
    for answer in answers:
        scores = [each["score"] for each in answer]
        assert len({each["label"] for each in answer}) == 3
        assert sorted(scores, reverse=True) == scores
        assert 0 <= sum(scores) <= 1 + 1e-9


def test_digits_held_back_are_a_quarter_of_the_data_in_ten_classes() -> None:
    pytest.importorskip("sklearn")
    from sklearn.datasets import load_digits

    images, labels = digits_torch.held_back()
    assert (images.shape, images.dtype) == ((450, 1, 8, 8), np.float32)
    assert (images.min(), images.max()) == (0, 16)
    assert set(labels) == set(range(10))
    trained, _ = digits_torch._share(held_back=False)
    whole = load_digits().images[:, None]
    # None stands on both sides, and none is lost.
    assert len(trained) + len(images) == len(whole) == 1797
    sides = [{image.tobytes() for image in side} for side in (trained, images)]
    assert sides[0] | sides[1] == {image.astype(np.float32).tobytes() for image in whole}
    assert not sides[0] & sides[1]


def test_the_same_seed_gives_the_same_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(digits_torch, "EPOCHS", 1)
    first, again, other = (digits_torch.train(seed).dense.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_model_that_fails_to_build_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(path: Path) -> None:
        path.mkdir()
        (path / "saved_model.pb").write_text("new")

    def fail(path: Path) -> None:
        write(path)
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")

    monkeypatch.setattr(build, "MODELS", {"m": write})
    build.build_models(tmp_path)
    build.build_models(tmp_path)
    assert capsys.readouterr().out.count("m: built in 0.0 s\n") == 2
    monkeypatch.setattr(build, "MODELS", {"m": fail})
    sentence = r'Building `m` needs sklearn\. pip install "rayserve-app\[examples\]"'
    with pytest.raises(MissingDependency, match=sentence):
        build.build_models(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["m", "saved_model.pb"]


def test_examples_import_without_any_framework() -> None:
    script = (
        "import sys, rayserve_app.examples.build, rayserve_app.examples.image_size\n"
        "frameworks = {'tensorflow', 'keras', 'torch', 'sklearn', 'ray'}\n"
        "print(sorted(frameworks & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
