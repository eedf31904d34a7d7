"""SavedModels that the tests of SageMaker packages share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.deployments.packages import install_serving_api, save_half_plus_three


@pytest.fixture(scope="session")
def half_plus_three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("half") / "half_plus_three"
    save_half_plus_three(path / "00000123")
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
    target = tmp_path_factory.mktemp("serving_api")
    install_serving_api(target)
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
