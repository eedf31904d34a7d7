"""Keras files through `TensorFlowBackend`; what they must answer is what Keras answers by hand."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest

from deployments.tensorflow.backend import TensorFlowBackend, TensorFlowSettings
from rayserve_app.errors import LoadError, ShapeMismatch
from rayserve_app.inference.model import Model
from rayserve_app.payloads.inputs import Inputs
from rayserve_app.payloads.outputs import encode
from rayserve_app.settings.model import InputSettings, LimitSettings
from rayserve_app.types import Row, TensorSpec

keras = pytest.importorskip("keras")

NEEDS_TRUST = r"needs code that is not Keras's own: got {}\. .* `trusted: true`\.$"


def load(path: Path, **settings: Any) -> TensorFlowBackend:
    backend = TensorFlowBackend(path=str(path), **settings)
    backend.load()
    return backend


def save(model: Any, path: Path) -> Path:
    model.save(path)
    return path


@pytest.fixture(scope="module")
def classifier() -> Any:
    """A small convolutional network, one input and one output."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Flatten(),
            layers.Dense(3, activation="softmax", name="scores"),
        ]
    )


@pytest.fixture(scope="module")
def classifier_path(classifier: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(classifier, tmp_path_factory.mktemp("classifier") / "model.keras")


def test_answers_what_keras_answers(classifier: Any, classifier_path: Path) -> None:
    items = list(np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype(np.float32))
    outputs = load(classifier_path).predict(items)
    assert list(outputs) == ["scores"]
    np.testing.assert_allclose(outputs["scores"], classifier(np.stack(items)).numpy(), rtol=1e-5)


def test_a_directory_may_hold_the_file(classifier_path: Path) -> None:
    backend = load(classifier_path.parent)
    assert backend.metadata().inputs == (TensorSpec("image", "float32", (-1, 8, 8, 1)),)
    assert backend.metadata().outputs == (TensorSpec("scores", "float32", (-1, 3)),)
    assert list(backend.versions()["1"]) == ["serving_default"]
    with pytest.raises(ShapeMismatch, match=r"expected float32 \(8, 8, 1\), got .* at `image`"):
        backend.predict([np.zeros((8, 8))])


def test_numbered_directories_may_hold_files(classifier: Any, tmp_path: Path) -> None:
    for number in ("1", "2"):
        (tmp_path / number).mkdir()
    save(classifier, tmp_path / "1" / "model.keras")
    classifier.export(tmp_path / "2", verbose=False)
    backend = load(tmp_path, versions="all")
    assert list(backend.versions()) == ["2", "1"]
    item = np.ones((8, 8, 1), np.float32)
    answers = [
        next(iter(signatures["serving_default"].predict([item]).values()))
        for signatures in backend.versions().values()
    ]
    np.testing.assert_allclose(answers[0], answers[1], rtol=1e-5)


def functional(inputs: Any, outputs: Callable[[Any, Any], Any]) -> Any:
    a, b = keras.Input((2,), name="a"), keras.Input((), dtype="int32", name="b-2")
    scale = keras.layers.Rescaling(2.0, name="double")
    cast = keras.layers.Rescaling(1.0, name="count")
    return keras.Model(inputs(a, b), outputs(scale(a), cast(b)))


@pytest.mark.parametrize(
    ("inputs", "outputs", "names"),
    [
        (lambda a, b: [a, b], lambda x, y: [x, y], ["double", "count"]),
        (lambda a, b: {"b-2": b, "a": a}, lambda x, y: {"n": y, "m": x}, ["m", "n"]),
        (lambda a, b: (b, [a]), lambda x, y: x, ["double"]),
        (lambda a, b: [b, a], lambda x, y: [x, x, y], ["output_0", "output_1", "output_2"]),
    ],
    ids=["lists", "mappings", "nested", "one layer twice"],
)
def test_inputs_and_outputs_have_the_models_names(
    tmp_path: Path, inputs: Any, outputs: Any, names: list[str]
) -> None:
    backend = load(save(functional(inputs, outputs), tmp_path / "m.keras"))
    assert {spec.name for spec in backend.metadata().inputs} == {"a", "b-2"}
    answers = backend.predict([{"a": np.array([1.0, 2.0]), "b-2": np.array(5)}])
    assert sorted(answers) == sorted(names)
    first = answers.get("double", answers.get("m", answers.get("output_0")))
    np.testing.assert_array_equal(first, [[2, 4]])
    for last in ("count", "n", "output_2"):
        if last in answers:
            np.testing.assert_array_equal(answers[last], [5])


def test_a_lambda_layer_needs_trust(tmp_path: Path) -> None:
    keras.config.enable_unsafe_deserialization()
    model = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x + 1)])
    path = save(model, tmp_path / "m.keras")
    with pytest.raises(LoadError, match=NEEDS_TRUST.format(r".*keras\.layers\.Lambda")):
        load(path)
    answer = load(path, trusted=True).predict([np.zeros(2, np.float32)])
    np.testing.assert_array_equal(next(iter(answer.values())), [[1, 1]])


CUSTOM = """
import keras

class Shift(keras.layers.Layer):
    def call(self, x):
        return x + 3

@keras.saving.register_keras_serializable("zoo")
class Twist(keras.layers.Layer):
    def call(self, x):
        return x[:, ::-1]
"""


@pytest.fixture
def custom_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file whose layers another process defined, in a module that is importable here."""
    (tmp_path / "zoo_layers.py").write_text(CUSTOM)
    script = f"""
import keras, zoo_layers
keras.Sequential([
    keras.Input((2,)),
    zoo_layers.Shift(),
    zoo_layers.Twist(),
]).save({str(tmp_path / "m.keras")!r})
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "zoo_layers", raising=False)
    return tmp_path / "m.keras"


def test_custom_objects_need_trust_and_their_module(
    custom_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = r"zoo_layers\.Shift, zoo_layers\.Twist"
    with pytest.raises(LoadError, match=NEEDS_TRUST.format(names)):
        load(custom_path)
    assert "zoo_layers" not in sys.modules
    answer = load(custom_path, trusted=True).predict([np.array([0, -1], np.float32)])
    np.testing.assert_array_equal(next(iter(answer.values())), [[2, 3]])
    monkeypatch.delitem(sys.modules, "zoo_layers")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(custom_path.parent)])
    with pytest.raises(LoadError, match="got ModuleNotFoundError: No module named 'zoo_layers'"):
        load(custom_path, trusted=True)


@pytest.mark.parametrize(
    "config",
    [
        {"module": "os", "class_name": "function", "config": "system", "registered_name": "system"},
        {"module": None, "class_name": "Shift", "config": {}, "registered_name": "zoo>Shift"},
        {"module": "builtins", "class_name": "function", "config": "zoo>cube"},
        {"class_name": "__lambda__", "config": {"value": "4wE="}},
    ],
)
def test_foreign_code_is_found_wherever_it_stands(
    classifier_path: Path, tmp_path: Path, config: Any
) -> None:
    with ZipFile(classifier_path) as old, ZipFile(tmp_path / "m.keras", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                whole = json.loads(content)
                whole["config"]["layers"][1]["config"]["activation"] = [{"deep": config}]
                content = json.dumps(whole).encode()
            new.writestr(name, content)
    with pytest.raises(LoadError, match=r"needs code that is not Keras's own"):
        load(tmp_path / "m.keras")


def test_a_loss_of_ones_own_is_not_needed(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(3.0)])
    model.compile(loss=lambda y, p: (y - p) ** 2)
    answer = load(save(model, tmp_path / "m.keras")).predict([np.array([1, 2], np.float32)])
    np.testing.assert_array_equal(next(iter(answer.values())), [[3, 6]])


def test_what_is_no_keras_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    path.write_bytes(b"junk")
    with pytest.raises(LoadError, match=r"is no Keras 3 file: expected .* got BadZipFile"):
        load(path)
    with ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(LoadError, match=r"`.*m\.keras` cannot be read: got \w+Error"):
        load(path)


def test_keras_on_another_framework_is_refused(
    classifier_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "numpy")
    with pytest.raises(LoadError, match="expected tensorflow, got numpy"):
        load(classifier_path)


def test_a_fresh_process_takes_tensorflow_whatever_the_environment_says(
    classifier_path: Path,
) -> None:
    script = f"""
import os
os.environ["KERAS_BACKEND"] = "jax"
from deployments.tensorflow.backend import TensorFlowBackend
backend = TensorFlowBackend(path={str(classifier_path)!r})
backend.load()
import keras
print(keras.backend.backend())
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert ran.stdout == "tensorflow\n", ran.stderr


def test_a_file_of_mixed_bfloat16_is_answered_in_every_form(tmp_path: Path) -> None:
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="y")])
    finally:
        keras.mixed_precision.set_global_policy("float32")
    x = np.array([[1.5, -2, 0.25]], np.float32)
    expected = keras.ops.convert_to_numpy(keras.ops.cast(model(x), "float32"))
    path = save(model, tmp_path / "mixed.keras")
    settings = TensorFlowSettings.model_validate({"path": str(path), "input": {"type": "tensor"}})
    served = Model(settings, TensorFlowBackend(path=str(path)), name="m")
    served.load()
    served.warm_up()
    assert served.metadata.outputs[0].dtype == "bfloat16"
    results = asyncio.run(served.predict([x[0]]))
    rows = [row for row in results if isinstance(row, Row)]
    for codec, read in (
        ("json", lambda body: json.loads(body)),
        ("csv", lambda body: np.loadtxt(io.BytesIO(body), delimiter=",", ndmin=2)),
        ("npy", lambda body: np.load(io.BytesIO(body))),
    ):
        body = b"".join(bytes(part) for part in encode(rows, codec, is_batch=True))
        np.testing.assert_array_equal(np.float32(read(body)), expected, codec)
    served.close()


def test_a_signature_of_bfloat16_takes_what_json_writes(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    spec = tf.TensorSpec((None, 2), tf.bfloat16, "x")
    function = tf.function(lambda x: {"y": x * 2}, input_signature=[spec])
    tf.saved_model.save(tf.Module(), str(tmp_path), signatures=function)
    backend = load(tmp_path)
    inputs = Inputs(InputSettings(type="tensor"), LimitSettings(), backend.metadata().inputs)
    for item in inputs.from_json([[1.5, 3e38], [1, 2]]).items:
        outputs = backend.predict([item])
        assert outputs["y"].dtype.name == "bfloat16"
    assert outputs["y"].astype(np.float32).tolist() == [[2.0, 4.0]]
    with pytest.raises(ShapeMismatch, match="out of range: expected bfloat16"):
        inputs.from_json([1e39, 0])
