"""`TensorFlowBackend` on SavedModels of one line each; what they answer is worked out in numpy."""

from __future__ import annotations

import asyncio
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.tensorflow.backend import TensorFlowBackend, TensorFlowSettings
from rayserve_app.errors import (
    ConfigurationError,
    InvalidRequest,
    LoadError,
    MissingDependency,
    PredictError,
    ShapeMismatch,
)
from rayserve_app.inference.model import Model
from rayserve_app.settings.model import parse_settings
from rayserve_app.types import TensorSpec

tf = pytest.importorskip("tensorflow")


class Scale(tf.Module):
    """2x + 1, with its numbers in variables, so that there are some to restore."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = tf.Variable(2.0)
        self.offset = tf.Variable(1.0)

    def __call__(self, x: Any) -> dict[str, Any]:
        return {"y": self.factor * x + self.offset}


def save(path: Path, call: Callable[..., Any], **inputs: tuple[Any, Any]) -> str:
    """Save `call` as `serving_default` with inputs of the given shape and type."""
    module = call if isinstance(call, tf.Module) else tf.Module()
    specs = {name: tf.TensorSpec(shape, dtype) for name, (shape, dtype) in inputs.items()}
    function = tf.function(lambda **tensors: call(**tensors)).get_concrete_function(**specs)
    tf.saved_model.save(module, str(path), signatures=function)
    return str(path)


def load(path: str, **settings: Any) -> TensorFlowBackend:
    backend = TensorFlowBackend(path=path, **settings)
    backend.load()
    return backend


@pytest.fixture(scope="module")
def scale_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(tmp_path_factory.mktemp("scale"), Scale(), x=((None, 2), tf.float32))


@pytest.fixture(scope="module")
def scale(scale_path: str) -> TensorFlowBackend:
    return load(scale_path)


@pytest.fixture(scope="module")
def mixture_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two inputs, two outputs."""

    def mix(image: Any, count: Any) -> dict[str, Any]:
        return {"bright": tf.cast(image, tf.int32) + count[:, None], "count": count}

    path = tmp_path_factory.mktemp("mixture")
    return save(path, mix, image=((None, 3), tf.uint8), count=((None,), tf.int32))


@pytest.fixture(scope="module")
def mixture(mixture_path: str) -> TensorFlowBackend:
    return load(mixture_path)


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> TensorFlowBackend:
    """Parses strings, so that some fail in the graph; answers a number and the string."""

    def parse(text: Any) -> dict[str, Any]:
        return {"number": tf.strings.to_number(text), "text": text}

    path = tmp_path_factory.mktemp("numbers")
    return load(save(path, parse, text=((None,), tf.string)))


def test_answers_a_batch(scale: TensorFlowBackend) -> None:
    items = [np.array(row, np.float32) for row in ([1, 2], [3, 4], [-1, 0])]
    outputs = scale.predict(items)
    assert list(outputs) == ["y"]
    assert outputs["y"].dtype == np.float32
    np.testing.assert_array_equal(outputs["y"], [[3, 5], [7, 9], [-1, 1]])


def test_a_batch_of_three_equals_three_singles(scale: TensorFlowBackend) -> None:
    items = list(np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32))
    singles = [scale.predict([item])["y"] for item in items]
    assert [single.shape for single in singles] == [(1, 2)] * 3
    np.testing.assert_array_equal(scale.predict(items)["y"], np.concatenate(singles))


def test_one_input_may_come_by_name(scale: TensorFlowBackend) -> None:
    outputs = scale.predict([{"x": np.array([1, 2], np.float32)}])
    np.testing.assert_array_equal(outputs["y"], [[3, 5]])


def test_takes_several_inputs_and_answers_all_outputs(mixture: TensorFlowBackend) -> None:
    items = [
        {"image": np.array([1, 2, 250], np.uint8), "count": np.int32(10)},
        {"count": np.int32(20), "image": np.array([0, 0, 1], np.uint8)},
    ]
    outputs = mixture.predict(items)
    assert set(outputs) == {"bright", "count"}
    np.testing.assert_array_equal(outputs["bright"], [[11, 12, 260], [20, 20, 21]])
    np.testing.assert_array_equal(outputs["count"], [10, 20])


def test_answers_the_chosen_outputs_in_their_order(mixture_path: str) -> None:
    item = {"image": np.zeros(3, np.uint8), "count": np.int32(1)}
    for chosen in (("count", "bright"), ("bright", "count"), ("count",)):
        backend = load(mixture_path, outputs=chosen)
        assert tuple(backend.predict([item])) == chosen
        assert tuple(output.name for output in backend.metadata().outputs) == chosen


def test_strings_come_and_go(numbers: TensorFlowBackend) -> None:
    outputs = numbers.predict(["1.5", b"-2", bytearray(b"3"), memoryview(b"4"), np.array("5")])
    np.testing.assert_array_equal(outputs["number"], [1.5, -2, 3, 4, 5])
    assert outputs["text"].dtype == object
    assert outputs["text"].tolist() == [b"1.5", b"-2", b"3", b"4", b"5"]


def test_arrays_of_strings_come_as_bytes_and_utf_8(tmp_path: Path) -> None:
    backend = load(save(tmp_path, lambda x: {"y": x}, x=((None, 2), tf.string)))
    items = [np.array([b"a\x00", "é"], object), np.array(["b", "c"])]
    assert backend.predict(items)["y"].tolist() == [[b"a\x00", b"\xc3\xa9"], [b"b", b"c"]]


def test_a_string_of_its_own_keeps_its_zero_bytes(tmp_path: Path) -> None:
    length = load(save(tmp_path, lambda x: {"y": tf.strings.length(x)}, x=((None,), tf.string)))
    assert length.predict(["ab\x00", b"\x00\x00"])["y"].tolist() == [3, 2]


@pytest.mark.parametrize(
    "item",
    [np.array([1, 2]), np.array([1.0, 2.0]), np.array([1, 2], np.uint8), np.array([1, 2], ">f4")],
    ids=["int64", "float64", "uint8", "big-endian"],
)
def test_numbers_are_cast(scale: TensorFlowBackend, item: np.ndarray) -> None:
    expected = [[3, 5], [3, 5]]
    np.testing.assert_array_equal(scale.predict([item])["y"], expected[:1])
    np.testing.assert_array_equal(scale.predict([item, item])["y"], expected)


def test_integers_of_json_narrow_where_they_fit(mixture: TensorFlowBackend) -> None:
    outputs = mixture.predict([{"image": np.array([0, 128, 255]), "count": np.array(-1)}])
    np.testing.assert_array_equal(outputs["bright"], [[-1, 127, 254]])


def test_numbers_are_tensorflows_own_memory(scale: TensorFlowBackend) -> None:
    """A copy, as `.numpy()` makes it, could be written to; of 55 MB it takes 50 ms and more."""
    assert not scale.predict([np.zeros(2, np.float32)])["y"].flags.writeable


def test_metadata_names_types_and_shapes(
    scale: TensorFlowBackend, mixture: TensorFlowBackend, numbers: TensorFlowBackend
) -> None:
    assert scale.metadata().platform == "tensorflow"
    assert scale.metadata().inputs == (TensorSpec("x", "float32", (-1, 2)),)
    assert scale.metadata().outputs == (TensorSpec("y", "float32", (-1, 2)),)
    assert set(mixture.metadata().inputs) == {
        TensorSpec("image", "uint8", (-1, 3)),
        TensorSpec("count", "int32", (-1,)),
    }
    assert numbers.metadata().inputs == (TensorSpec("text", "string", (-1,)),)


def test_metadata_before_load_names_the_platform() -> None:
    backend = TensorFlowBackend(path="nowhere")
    assert backend.metadata().platform == "tensorflow"
    assert backend.metadata().inputs == ()


@pytest.mark.parametrize("size", [1, 2])
def test_a_fixed_batch_size_takes_any_number_of_items(tmp_path: Path, size: int) -> None:
    backend = load(save(tmp_path, lambda x: {"y": 2 * x}, x=((size, 1), tf.float32)))
    for count in (1, 2, 3):
        items = [np.array([number], np.float32) for number in range(count)]
        expected = [[0], [2], [4]][:count]
        np.testing.assert_array_equal(backend.predict(items)["y"], expected)


def test_a_scalar_input_holds_for_its_own_item_alone(tmp_path: Path) -> None:
    def threshold(x: Any, least: Any) -> dict[str, Any]:
        return {"y": x >= least}

    path = save(tmp_path, threshold, x=((None, 2), tf.float32), least=((), tf.float32))
    x = np.array([1, 2], np.float32)
    outputs = load(path).predict([{"x": x, "least": np.float32(2)}, {"x": x, "least": 0.5}])
    np.testing.assert_array_equal(outputs["y"], [[False, True], [True, True]])


def test_an_input_of_unknown_rank_takes_any_shape(tmp_path: Path) -> None:
    backend = load(save(tmp_path, lambda x: {"y": -x}, x=(None, tf.float32)))
    assert backend.metadata().inputs == (TensorSpec("x", "float32", ()),)
    for shape in ((), (3,), (2, 2)):
        item = np.ones(shape, np.float32)
        np.testing.assert_array_equal(backend.predict([item, item])["y"], -np.ones((2, *shape)))


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        (np.zeros(3, np.float32), r"expected float32 \(2,\), got float32 \(3,\) - at `x`"),
        (np.zeros((1, 2), np.float32), r"expected float32 \(2,\), got float32 \(1, 2\) - at `x`"),
        (np.zeros(2, np.complex64), r"expected float32 \(2,\), got complex64 \(2,\) - at `x`"),
        (np.array(["1", "2"]), r"expected float32 \(2,\), got <U1 \(2,\) - at `x`"),
        ("1,2", r"expected float32 \(2,\), got a string - at `x`"),
        (b"12", r"expected float32 \(2,\), got a string - at `x`"),
        ({}, "An input is missing: expected x, got nothing - at `x`"),
        ({"x": np.zeros(2), "z": 1}, "There is no such input: expected x, got x, z - at `z`"),
    ],
)
def test_refuses_what_does_not_fit(scale: TensorFlowBackend, item: Any, sentence: str) -> None:
    with pytest.raises(ShapeMismatch, match=sentence):
        scale.predict([np.zeros(2, np.float32), item])


@pytest.mark.parametrize("image", [[0.5, 1, 2], [0, 0, 256], [-1, 0, 0]])
def test_refuses_numbers_that_a_cast_would_change(
    mixture: TensorFlowBackend, image: list[float]
) -> None:
    with pytest.raises(
        ShapeMismatch, match=r"expected uint8 \(3,\), got \w+64 \(3,\) - at `image`"
    ):
        mixture.predict([{"image": np.array(image), "count": np.array(0)}])


def test_refuses_one_value_for_several_inputs(mixture: TensorFlowBackend) -> None:
    with pytest.raises(ShapeMismatch, match=r"several inputs: expected an array for each of \w+, "):
        mixture.predict([np.zeros(3, np.uint8)])


def test_refuses_numbers_for_strings(numbers: TensorFlowBackend) -> None:
    with pytest.raises(ShapeMismatch, match=r"expected string \(\), got int64 \(\) - at `text`"):
        numbers.predict([np.array(1)])


def test_refuses_unlike_items_in_one_batch(tmp_path: Path) -> None:
    backend = load(save(tmp_path, lambda x: {"y": x}, x=((None, None), tf.float32)))
    assert backend.bucket(np.zeros(2)) != backend.bucket(np.zeros(3))
    with pytest.raises(
        ShapeMismatch, match=r"unlike: expected one shape, got \([23],\), \([23],\)"
    ):
        backend.predict([np.zeros(2), np.zeros(3)])


def test_a_failing_graph_says_why_in_one_line(numbers: TensorFlowBackend) -> None:
    sentence = r"^The model refuses the input: got StringToNumber.* string: ten$"
    with pytest.raises(InvalidRequest, match=sentence) as caught:
        numbers.predict(["1", "ten"])
    assert isinstance(caught.value.__cause__, tf.errors.InvalidArgumentError)


def test_an_output_that_only_the_graph_knows_must_have_the_batch_axis(tmp_path: Path) -> None:
    def shapeless(x: Any) -> dict[str, Any]:
        return {"sum": tf.py_function(tf.reduce_sum, [x], tf.float32)}

    path = save(tmp_path, shapeless, x=((None, 2), tf.float32))
    sentence = r"lacks the batch axis: expected 2 along axis 0, got float32 \(\) - at `sum`"
    with pytest.raises(PredictError, match=sentence):
        load(path).predict([np.zeros(2), np.zeros(2)])


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="absent"):
        load(str(tmp_path / "absent"))


def test_another_file_is_told_from_a_model(tmp_path: Path) -> None:
    file = tmp_path / "model.h5"
    file.write_bytes(b"\x89HDF")
    with pytest.raises(LoadError, match=r"got another file\. Keras: `model\.save\('name.keras'\)`"):
        load(str(file))


NEITHER = r"expected `saved_model\.pb`, one `\.keras` file, or numbered directories of either, got "


def test_a_directory_without_a_model_is_listed(tmp_path: Path) -> None:
    (tmp_path / "weights.h5").touch()
    (tmp_path / "0001").mkdir()
    (tmp_path / "2").touch()
    with pytest.raises(LoadError, match=NEITHER + r"0001, 2, weights\.h5$"):
        load(str(tmp_path))
    for name in ("a.keras", "b.keras"):
        (tmp_path / name).touch()
    with pytest.raises(LoadError, match=r"Several models .* one, got a\.keras, b\.keras - at `pa"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("saved_model.pb", b"junk" * 99),
        ("saved_model.pb", b""),
        ("variables/variables.index", b"junk"),
        ("variables/variables.data-00000-of-00001", b""),
        ("variables/variables.index", None),
    ],
    ids=["junk", "empty", "index", "data", "no-variables"],
)
def test_a_corrupt_model_is_named(tmp_path: Path, file: str, content: bytes | None) -> None:
    path = save(tmp_path, Scale(), x=((None, 2), tf.float32))
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(LoadError, match=r"The SavedModel in .* cannot be read: got \w+:"):
        load(path)


def test_an_unknown_signature_lists_the_known(scale_path: str) -> None:
    sentence = "Unknown signature: expected one of serving_default, got `images` - at `signature`"
    with pytest.raises(LoadError, match=sentence):
        load(scale_path, signature="images")


def test_an_unknown_output_lists_the_known(scale_path: str) -> None:
    sentence = "has no such output: expected one of y, got `z` - at `outputs`"
    with pytest.raises(LoadError, match=sentence):
        load(scale_path, outputs=("y", "z"))


def test_without_tensorflow_the_remedy_is_a_command(
    scale_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    sentence = r'The model needs TensorFlow\. pip install "rayserve-app\[tensorflow\]"'
    with pytest.raises(MissingDependency, match=sentence):
        load(scale_path)


def test_a_model_that_is_not_loaded_says_so(scale_path: str) -> None:
    backend = load(scale_path)
    backend.close()
    with pytest.raises(PredictError, match="The model is not loaded"):
        backend.predict([np.zeros(2, np.float32)])


def test_threads_of_another_model_of_the_process_stay(
    scale_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "deployments.tensorflow.backend"):
        load(scale_path, compute_threads=99)
    assert "threads already; 99 have no effect" in caplog.text


def test_a_fresh_process_loads_late_quietly_and_with_the_given_threads(scale_path: str) -> None:
    script = f"""
import sys
from deployments.tensorflow.backend import TensorFlowBackend
backend = TensorFlowBackend(path={scale_path!r}, compute_threads=1)
assert "tensorflow" not in sys.modules
backend.load()
import tensorflow as tf
threading = tf.config.threading
print(threading.get_intra_op_parallelism_threads(), threading.get_inter_op_parallelism_threads())
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "1 1\n"
    # On processors with certain instructions TensorFlow says so, whatever it is told.
    noise = ("All log messages before absl::InitializeLog()", "oneDNN custom operations are on")
    told = [line for line in ran.stderr.splitlines() if not any(each in line for each in noise)]
    assert told == []


def test_an_image_with_metadata_feeds_the_inputs_that_are_named(tmp_path: Path) -> None:
    def brighten(pixels: Any, gain: Any) -> dict[str, Any]:
        return {"y": pixels * gain[:, None]}

    path = save(tmp_path, brighten, pixels=((None, 2), tf.float32), gain=((None,), tf.float32))
    item = {"data": np.array([1.0, 2.0]), "gain": np.array(3.0), "format": "png"}
    np.testing.assert_array_equal(load(path).predict([item])["y"], [[3.0, 6.0]])


@pytest.fixture(scope="module")
def numbered_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Version n adds n; besides, what is no version: a name, a file, one without a graph."""
    path = tmp_path_factory.mktemp("numbered")
    for name, number in (("9", 9), ("10", 10), ("0002", 2)):
        add = partial(lambda number, x: {"y": x + number}, float(number))
        save(path / name, add, x=((None,), tf.float32))
    for name in ("11/variables", "latest", "12.5", "-3"):
        (path / name).mkdir(parents=True)
    (path / "13").touch()
    save(path / "export", lambda x: {"y": x}, x=((None,), tf.float32))
    return str(path)


@pytest.mark.parametrize(
    ("choice", "served"),
    [
        ("latest", ["10"]),
        ("all", ["10", "9", "2"]),
        ([2, 9], ["9", "2"]),
        ([2, 2], ["2"]),
    ],
)
def test_the_chosen_versions_are_served_the_newest_first(
    numbered_path: str, choice: Any, served: list[str]
) -> None:
    backend = load(numbered_path, versions=choice)
    assert list(backend.versions()) == served
    item = np.float32(0)
    np.testing.assert_array_equal(backend.predict([item])["y"], [float(served[0])])
    for version, signatures in backend.versions().items():
        outputs = signatures["serving_default"].predict([item])
        np.testing.assert_array_equal(outputs["y"], [float(version)])


def test_a_version_that_is_not_there_lists_those_that_are(numbered_path: str) -> None:
    sentence = "no such version: expected one of 10, 9, 2, got 11 - at `versions`"
    with pytest.raises(LoadError, match=sentence):
        load(numbered_path, versions=[9, 11])


def test_a_model_without_numbers_has_no_numbered_versions(scale_path: str) -> None:
    with pytest.raises(LoadError, match=r"no numbered versions: got one model, .* at `versions`"):
        load(scale_path, versions=[1])
    assert list(load(scale_path, version="blue").versions()) == ["blue"]


@pytest.mark.parametrize("folders", ["texture", "export/Servo"])
def test_versions_in_the_only_folder_of_an_archive_are_found(
    numbered_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folders: str
) -> None:
    monkeypatch.setenv("RAYSERVE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(Path(numbered_path) / "9", tmp_path / "package" / folders / "9")
    shutil.copytree(Path(numbered_path) / "10", tmp_path / "package" / folders / "10")
    (tmp_path / "package" / "code").mkdir()
    (tmp_path / "package" / "code" / "inference.py").write_text("# user code")
    archive = shutil.make_archive(str(tmp_path / "model"), "gztar", tmp_path / "package")
    backend = load(archive, versions="all")
    assert list(backend.versions()) == ["10", "9"]
    np.testing.assert_array_equal(backend.predict([np.float32(1)])["y"], [11])


def test_a_model_without_a_number_may_lie_deeper(scale_path: str, tmp_path: Path) -> None:
    shutil.copytree(scale_path, tmp_path / "scale")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    shutil.copytree(scale_path, tmp_path / ".ipynb_checkpoints" / "scale")
    assert list(load(str(tmp_path), version="blue").versions()) == ["blue"]


def test_of_several_models_below_the_path_none_is_taken(scale_path: str, tmp_path: Path) -> None:
    shutil.copytree(scale_path, tmp_path / "a" / "1")
    shutil.copytree(scale_path, tmp_path / "b")
    (tmp_path / "c").mkdir()
    for name in ("small.keras", "large.keras"):
        (tmp_path / "c" / name).touch()
    sentence = (
        f"Several models lie below `{tmp_path}`: expected one, "
        r"got a, b, c/large.keras, c/small.keras - at `path`. Name one of them\."
    )
    with pytest.raises(LoadError, match=sentence):
        load(str(tmp_path))


def test_what_lies_too_deep_is_not_looked_for(scale_path: str, tmp_path: Path) -> None:
    shutil.copytree(scale_path, tmp_path / "a/b/c/d")
    with pytest.raises(LoadError, match=r"Nothing to load from `.*`: expected .*, got a$"):
        load(str(tmp_path))


def test_a_version_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    save(tmp_path / "1", Scale(), x=((None, 2), tf.float32))
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "saved_model.pb").write_bytes(b"junk" * 99)
    with pytest.raises(LoadError, match=r"cannot be read: got .* - at `versions\[2\]`$"):
        load(str(tmp_path), versions="all")
    with pytest.raises(LoadError, match=r"- at `versions\[1\]\.signature`$"):
        load(str(tmp_path), versions=[1], signature="images")


@pytest.mark.parametrize(
    ("versions", "got"),
    [("newest", "'newest'"), ([], r"\[\]"), ([-1], r"\[-1\]"), (3, "3"), ([True], "True")],
)
def test_the_setting_of_versions_is_checked(versions: Any, got: str) -> None:
    sentence = rf"expected 'latest', 'all', or a list of numbers: got \[?{got}"
    with pytest.raises(ConfigurationError, match=sentence) as caught:
        parse_settings(
            TensorFlowSettings,
            {"model": {"path": "m", "input": {"type": "tensor"}, "versions": versions}},
        )
    assert caught.value.path == "args.model.versions"


@pytest.fixture(scope="module")
def signatures_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two signatures that can be batched, and one that has no batch axis."""
    path = tmp_path_factory.mktemp("signatures")
    module = tf.Module()

    def concrete(call: Callable[..., Any], **specs: Any) -> Any:
        return tf.function(call).get_concrete_function(**specs)

    vector = tf.TensorSpec((None, 2), tf.float32)
    signatures = {
        "serving_default": concrete(lambda x: {"y": 2 * x, "z": 3 * x}, x=vector),
        "sum": concrete(lambda a, b: {"total": a + b}, a=vector, b=vector),
        "odd": concrete(
            lambda a, b: {"y": a + tf.reduce_sum(b)},
            a=tf.TensorSpec((2,), tf.float32),
            b=tf.TensorSpec((3,), tf.float32),
        ),
    }
    tf.saved_model.save(module, str(path), signatures=signatures)
    return str(path)


def test_all_signatures_are_there_the_chosen_one_first(signatures_path: str) -> None:
    (signatures,) = load(signatures_path, signature="sum").versions().values()
    assert list(signatures) == ["sum", "serving_default", "odd"]
    x = np.array([1, 2], np.float32)
    outputs = signatures["sum"].predict([{"a": x, "b": x}])
    np.testing.assert_array_equal(outputs["total"], [[2, 4]])
    np.testing.assert_array_equal(signatures["serving_default"].predict([x])["z"], [[3, 6]])
    assert {spec.name for spec in signatures["sum"].metadata().inputs} == {"a", "b"}
    odd = signatures["odd"].predict([{"a": x, "b": np.ones(3)}, {"a": -x, "b": np.zeros(3)}])
    np.testing.assert_array_equal(odd["y"], [[4, 5], [-1, -2]])


def test_other_signatures_answer_the_chosen_outputs_if_they_have_them(
    signatures_path: str,
) -> None:
    (signatures,) = load(signatures_path, outputs=("z",)).versions().values()
    x = np.array([1, 2], np.float32)
    assert list(signatures["serving_default"].predict([x])) == ["z"]
    assert list(signatures["sum"].predict([{"a": x, "b": x}])) == ["total"]


async def test_requests_for_two_versions_at_once_each_get_their_own(numbered_path: str) -> None:
    settings = TensorFlowSettings.model_validate(
        {"path": numbered_path, "input": {"type": "tensor"}, "batching": {"max_batch_size": 8}}
    )
    model = Model(settings, TensorFlowBackend(path=numbered_path, versions="all"), name="m")
    model.load()
    await asyncio.to_thread(model.warm_up)
    versions = ["10", "9", "2"] * 20
    asked = [
        model.predict([np.float32(number)], servable=model.select(version))
        for number, version in enumerate(versions)
    ]
    answers = [row.value["y"] for (row,) in await asyncio.gather(*asked)]
    model.close()
    assert answers == [number + float(version) for number, version in enumerate(versions)]
    assert model.recorder.batch_items.count < len(versions)
    described = model.describe()
    assert (described["version"], list(described["versions"])) == ("10", ["10", "9", "2"])


async def test_a_model_of_base64_strings_is_warmed_up_with_a_black_image(tmp_path: Path) -> None:
    def size(images: Any) -> dict[str, Any]:
        def read(image: Any) -> Any:
            return tf.shape(tf.io.decode_image(tf.io.decode_base64(image)))[:2]

        return {"size": tf.map_fn(read, images, fn_output_signature=tf.int32)}

    path = save(tmp_path, size, images=((None,), tf.string))
    settings = TensorFlowSettings.model_validate(
        {"path": path, "input": {"type": "string", "codec": "base64_urlsafe"}}
    )

    class Recorded(TensorFlowBackend):
        def versions(self) -> Any:
            return {"1": {"serving_default": self}} if self._versions else {}

        def predict(self, items: Any) -> Any:
            answered.append(super().predict(items)["size"].tolist())
            return {"size": np.array(answered[-1])}

    answered: list[Any] = []
    model = Model(settings, Recorded(path=path), name="m")
    model.load()
    await asyncio.to_thread(model.warm_up)
    assert answered == [[[8, 8]], [[8, 8]] * 10]
