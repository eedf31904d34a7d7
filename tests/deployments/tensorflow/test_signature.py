"""Whole tensors through a signature, against the same SavedModel called by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.tensorflow import saved_model
from deployments.tensorflow.signature import Signature
from rayserve_app.errors import InvalidRequest, ShapeMismatch

tf = pytest.importorskip("tensorflow")

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., tuple[Signature, Run]]:
    """Save a function, and return it as a signature and as TensorFlow itself calls it."""

    def load(call: Run, **inputs: tuple[Any, Any]) -> tuple[Signature, Run]:
        specs = [tf.TensorSpec(shape, dtype, name) for name, (shape, dtype) in inputs.items()]
        function = tf.function(call, input_signature=specs)
        tf.saved_model.save(tf.Module(), str(tmp_path), signatures=function)
        by_hand = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
        found = saved_model.load(tf, tmp_path)["serving_default"]
        return Signature(tf, "serving_default", found), lambda **feed: {
            name: tensor.numpy()
            for name, tensor in by_hand(
                **{name: tf.constant(array) for name, array in feed.items()}
            ).items()
        }

    return load


def mix(image: Any, text: Any, factor: Any) -> dict[str, Any]:
    return {
        "scaled": tf.cast(image, tf.float32) * factor,
        "mean": tf.reduce_mean(tf.cast(image, tf.float32)),
        "text": tf.strings.join([text, text]),
    }


def test_whole_tensors_are_answered_as_tensorflow_answers_them(load: Any) -> None:
    """Scalars, strings, an output without a batch axis, inputs of unlike lengths."""
    signature, by_hand = load(
        mix, image=((None, 2, 3), tf.uint8), text=((None,), tf.string), factor=((), tf.float32)
    )
    for rows in (0, 1, 5):
        feed = {
            "image": np.arange(rows * 6, dtype=np.uint8).reshape(rows, 2, 3),
            "text": np.array([b"a\0", "größe".encode()], object),
            "factor": np.array(0.1, np.float32),
        }
        answer, expected = signature.run(feed), by_hand(**feed)
        assert answer.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(answer[name], array, strict=True)


def test_rows_and_whole_tensors_agree(load: Any) -> None:
    signature, _ = load(lambda x: {"y": tf.sqrt(x)}, x=((None, 4), tf.float64))
    batch = np.random.default_rng(0).random((7, 4))
    np.testing.assert_array_equal(
        signature.run({"x": batch})["y"], signature.predict(list(batch))["y"]
    )


def test_an_input_of_any_rank_takes_any(load: Any) -> None:
    signature, by_hand = load(lambda x: {"y": x + 1}, x=(None, tf.float32))
    for shape in ((), (3,), (2, 1, 2)):
        x = np.ones(shape, np.float32)
        np.testing.assert_array_equal(signature.run({"x": x})["y"], by_hand(x=x)["y"], strict=True)


def test_numbers_are_cast_where_they_stay_what_they_are(load: Any) -> None:
    signature, _ = load(lambda x: {"y": x}, x=((None,), tf.float32))
    assert signature.run({"x": np.array([1, 2])})["y"].dtype == np.float32
    assert signature.run({"x": np.array([0.5], np.float64)})["y"].tolist() == [0.5]


@pytest.mark.parametrize(
    ("feed", "sentence"),
    [
        ({"x": np.ones((3, 2), np.float32)}, r"expected float32 \(2, 2\), got float32 \(3, 2\)"),
        ({"x": np.ones(2, np.float32)}, r"expected float32 \(2, 2\), got float32 \(2,\)"),
        ({"x": np.array([["a"] * 2] * 2, object)}, r"expected float32 \(2, 2\), got object"),
        ({}, "An input is missing: expected x, got nothing - at `x`"),
        ({"x": np.ones((2, 2), np.float32), "z": np.ones(1)}, "no such input.*at `z`"),
    ],
)
def test_tensors_that_do_not_fit_are_told_by_name(
    load: Any, feed: dict[str, Any], sentence: str
) -> None:
    """A batch of fixed size is that of the call: whole tensors are neither cut nor padded."""
    signature, _ = load(lambda x: {"y": x}, x=((2, 2), tf.float32))
    with pytest.raises(ShapeMismatch, match=sentence):
        signature.run(feed)


def test_what_the_graph_refuses_is_the_callers_fault_or_the_models(
    load: Any, tmp_path: Any
) -> None:
    signature, _ = load(lambda x: {"y": tf.io.decode_raw(x, tf.int32)}, x=((None,), tf.string))
    with pytest.raises(InvalidRequest, match="The model refuses the input"):
        signature.run({"x": np.array([b"abc"], object)})
