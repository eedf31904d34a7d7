"""SavedModels that the tests of SageMaker packages share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def half_plus_three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of the container's own tests, y = x / 2 + 3, as version 123."""
    import tensorflow as tf

    class HalfPlusThree(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, "x")])
        def __call__(self, x: Any) -> dict[str, Any]:
            return {"y": x / 2 + 3}

    path = tmp_path_factory.mktemp("half") / "half_plus_three"
    model = HalfPlusThree()
    tf.saved_model.save(model, str(path / "00000123"), signatures=model.__call__)
    return path


@pytest.fixture(scope="session")
def yolov3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three outputs of unlike size for each image, as the guide's network has."""
    import tensorflow as tf

    class Yolo(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32, "images")])
        def __call__(self, images: Any) -> dict[str, Any]:
            means = tf.reduce_mean(images, axis=(1, 2))
            return {
                f"conv2d_{number}": tf.tile(means, [1, count])
                for number, count in ((58, 1), (66, 2), (74, 3))
            }

    path = tmp_path_factory.mktemp("yolo") / "yolov3"
    model = Yolo()
    tf.saved_model.save(model, str(path / "1"), signatures=model.__call__)
    return path


@pytest.fixture(scope="session")
def serving_api(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package `tensorflow-serving-api` alone: TensorFlow, which it needs, is there."""
    target = tmp_path_factory.mktemp("serving_api")
    install = [sys.executable, "-m", "uv", "pip", "install", "--python", sys.executable]
    run = subprocess.run(
        [*install, "--no-deps", "--target", str(target), "tensorflow-serving-api==2.21.0"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if run.returncode:
        pytest.skip(f"tensorflow-serving-api does not install: {run.stderr.splitlines()[-1]}")
    return target


@pytest.fixture(scope="session")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two inputs and three outputs of unlike types, and a signature of its own, `length`."""
    import tensorflow as tf

    class Named(tf.Module):
        @tf.function(
            input_signature=[
                tf.TensorSpec([None, 2], tf.float32, "numbers"),
                tf.TensorSpec([None], tf.string, "text"),
            ]
        )
        def both(self, numbers: Any, text: Any) -> dict[str, Any]:
            return {
                "total": tf.reduce_sum(numbers, axis=1),
                "text_bytes": text,
                "length": tf.strings.length(text),
            }

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
        def length(self, text: Any) -> dict[str, Any]:
            return {"length": tf.strings.length(text)}

    path = tmp_path_factory.mktemp("named") / "named"
    model = Named()
    signatures = {"serving_default": model.both, "length": model.length}
    for version in ("2", "11"):
        tf.saved_model.save(model, str(path / version), signatures=signatures)
    return path
