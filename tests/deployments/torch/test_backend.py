"""`TorchBackend` on files made here, in every format; expected is the module called by hand.

No test needs a GPU; where there is one, all of them run on it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data

from deployments.torch.backend import TorchBackend
from rayserve_app.errors import (
    PredictError,
    ShapeMismatch,
)
from rayserve_app.inference.batcher import run_batch
from rayserve_app.payloads.inputs import Inputs
from rayserve_app.settings.model import LimitSettings
from rayserve_app.types import Row
from tests.deployments.torch import networks
from tests.deployments.torch.networks import (
    CONVOLUTION,
    FORMATS,
    PHOTO,
    PHOTOS,
    Choosy,
    Convolution,
    Optional,
    Settings,
    by_hand,
    factory,
    load,
    save_mixture,
    save_module,
    save_scripted,
    save_state_dict,
    save_weights,
    torch,
)

# What people have saved stays to be served.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


@pytest.fixture(params=FORMATS, ids=lambda save: save.__name__.removeprefix("save_"))
def convolution(request: pytest.FixtureRequest, tmp_path: Path) -> TorchBackend:
    """The same module, loaded from each format; `path` names the folder of the one file."""
    return load(tmp_path, **request.param(tmp_path))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_format_answers_as_the_module_does(convolution: TorchBackend, count: int) -> None:
    outputs = convolution.predict(PHOTOS[:count])
    assert isinstance(outputs, dict)
    assert list(outputs) == ["output"]
    assert outputs["output"].dtype == np.float32
    expected = by_hand(CONVOLUTION, PHOTOS[:count])
    np.testing.assert_allclose(outputs["output"], expected, rtol=1e-5, atol=1e-6)


def test_every_format_takes_a_full_batch_again_after_it_was_closed(
    convolution: TorchBackend,
) -> None:
    items = [PHOTO * share for share in np.linspace(0, 1, 33, dtype=np.float32)]
    convolution.predict(items)
    convolution.close()
    with pytest.raises(PredictError, match="The model is not loaded"):
        convolution.predict(items)
    convolution.load()
    outputs = convolution.predict(items)
    assert isinstance(outputs, dict)
    expected = by_hand(CONVOLUTION, items)
    np.testing.assert_allclose(outputs["output"], expected, rtol=1e-5, atol=1e-6)


def test_every_format_serves_two_threads(convolution: TorchBackend) -> None:
    def predict(photo: np.ndarray) -> Any:
        outputs = convolution.predict([photo])
        assert isinstance(outputs, dict)
        return outputs["output"][0]

    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(predict, PHOTOS * 4))
    expected = by_hand(CONVOLUTION, PHOTOS * 4)
    np.testing.assert_allclose(np.stack(answers), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("save", [save_scripted, save_state_dict, save_module])
def test_half_precision_is_answered_as_float32(
    tmp_path: Path, precision: str, save: Callable[[Path], Settings]
) -> None:
    """bfloat16 has 8 bits of mantissa, so each of the few sums rounds by 2^-9 at most; 2 % hold."""
    outputs = load(tmp_path, **save(tmp_path), precision=precision).predict(PHOTOS)
    assert isinstance(outputs, dict)
    assert outputs["output"].dtype == np.float32
    expected = by_hand(CONVOLUTION, PHOTOS)
    np.testing.assert_allclose(outputs["output"], expected, rtol=0.02)
    assert (outputs["output"] != expected).any()


def test_channels_last_changes_no_answer(tmp_path: Path) -> None:
    backend = load(tmp_path, **save_state_dict(tmp_path), channels_last=True)
    outputs = backend.predict(PHOTOS)
    assert isinstance(outputs, dict)
    expected = by_hand(CONVOLUTION, PHOTOS)
    np.testing.assert_allclose(outputs["output"], expected, rtol=1e-5, atol=1e-6)
    assert backend._module.conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_decoded_image_is_an_item(tmp_path: Path) -> None:
    declared = {"type": "image", "size": [32, 32], "layout": "CHW", "scale": 1 / 255}
    backend = load(tmp_path, **save_state_dict(tmp_path), input=declared)
    inputs = Inputs(backend._settings.input, LimitSettings())
    item = inputs.from_object(skimage.data.astronaut()[::16, ::16], path="")
    outputs = backend.predict([item, {"data": item, "camera": "left"}])
    assert isinstance(outputs, dict)
    expected = by_hand(CONVOLUTION, [PHOTO, PHOTO])
    np.testing.assert_allclose(outputs["output"], expected, rtol=1e-5, atol=1e-6)


MIXTURE_ITEMS = [
    {"x": np.array([1.0, 2.0]), "factor": np.array(3)},
    {"factor": np.array(-1), "x": np.array([0.5, 0.0])},
]


@pytest.mark.parametrize("kind", ["torchscript", "state_dict", "export", "export by name"])
def test_named_arguments_and_results(tmp_path: Path, kind: str) -> None:
    backend = load(tmp_path, **save_mixture(tmp_path, kind), input={"type": "tensors"})
    outputs = backend.predict(MIXTURE_ITEMS)
    assert isinstance(outputs, dict)
    np.testing.assert_array_equal(outputs["scaled"], np.float32([[3, 6], [-0.5, 0]]), strict=True)
    np.testing.assert_array_equal(outputs["factor"], [3, -1], strict=True)


@pytest.mark.parametrize("kind", ["torchscript", "state_dict", "export"])
@pytest.mark.parametrize(
    ("item", "path"),
    [
        ({"x": np.zeros(2)}, "factor"),
        ({"x": np.zeros(2), "factor": np.array(1), "z": np.array(1)}, "z"),
    ],
)
def test_other_names_are_refused(tmp_path: Path, kind: str, item: Any, path: str) -> None:
    backend = load(tmp_path, **save_mixture(tmp_path, kind), input={"type": "tensors"})
    with pytest.raises(ShapeMismatch, match="expected x, factor, got x") as info:
        backend.predict([item])
    assert info.value.path == path


def test_an_argument_with_a_default_may_be_left_out(tmp_path: Path) -> None:
    torch.jit.script(Optional()).save(tmp_path / "script.pt")
    for backend in (
        load(tmp_path / "script.pt"),
        load(save_weights(tmp_path), **factory("Optional")),
    ):
        x, bias = np.array([1.0]), np.array([2.0])
        assert backend.predict([{"x": x}])["output"].tolist() == [[1]]  # type: ignore[call-overload]
        assert backend.predict([{"x": x, "bias": bias}])["output"].tolist() == [[3]]  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("module", "names", "expected"),
    [
        ("Pair", [], {"output_0": [1, 2], "output_1": [3, 5]}),
        ("Pair", ["low", "high"], {"low": [1, 2], "high": [3, 5]}),
        ("Pair", ["output_1"], {"output_1": [3, 5]}),
        ("NamedPair", [], {"low": [1, 2], "high": [3, 5]}),
        ("NamedPair", ["high"], {"high": [3, 5]}),
        ("Choosy", ["doubled"], {"doubled": [[6, 2], [4, 10]]}),
        ("Constant", [], {"output": [1, 1]}),
    ],
)
def test_results_have_the_models_names_or_those_declared(
    tmp_path: Path, module: str, names: list[str], expected: dict[str, Any]
) -> None:
    declared = {"output": {"outputs": names}}
    file = save_weights(tmp_path, getattr(networks, module)())
    backend = load(file, **factory(module), **declared)
    outputs = backend.predict([np.array([3.0, 1.0]), np.array([2.0, 5.0])])
    assert isinstance(outputs, dict)
    assert {name: array.tolist() for name, array in outputs.items()} == expected
    assert list(outputs) == list(expected)


@pytest.mark.parametrize(
    ("module", "names", "sentence"),
    [
        ("Pair", ["mean"], "no such output: expected one of output_0, output_1, got mean"),
        ("Whole", [], r"lacks the batch axis: expected 2 along axis 0, got \(\) - at `output`"),
        ("Strange", [], "none that can be sent: .* got str as `text`"),
    ],
)
def test_answers_that_cannot_be_sent_are_the_models_fault(
    tmp_path: Path, module: str, names: list[str], sentence: str
) -> None:
    declared = {"output": {"outputs": names}}
    backend = load(save_weights(tmp_path), **factory(module), **declared)
    with pytest.raises(PredictError, match=sentence):
        backend.predict([np.zeros(2), np.zeros(2)])


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_])
def test_integers_stay_integers_and_floats_are_float32(tmp_path: Path, dtype: Any) -> None:
    backend = load(save_weights(tmp_path), **factory("Optional"))
    item = np.array([0, 1], dtype)
    assert backend.predict([item])["output"].dtype == dtype  # type: ignore[call-overload]
    for floats in (np.float64, np.float16, ">f4"):
        outputs = backend.predict([item.astype(floats), item.astype(floats)])
        assert outputs["output"].dtype == np.float32  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        (b"bytes", "Not an array of numbers"),
        ("text", "Not an array of numbers"),
        (np.array([1j]), "takes no complex numbers"),
        (np.array([None]), "Not an array of numbers"),
        (np.array([1e300]), "out of range: expected float32"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(tmp_path: Path, item: Any, sentence: str) -> None:
    backend = load(save_weights(tmp_path), **factory("Optional"))
    with pytest.raises(ShapeMismatch, match=sentence):
        backend.predict([item])


def test_unlike_shapes_do_not_meet(tmp_path: Path) -> None:
    backend = load(save_weights(tmp_path), **factory("Optional"))
    assert backend.bucket(np.zeros(2)) != backend.bucket(np.zeros(3))
    assert backend.bucket(np.zeros(2)) != backend.bucket(np.zeros(2, np.int64))
    with pytest.raises(ShapeMismatch, match=r"unlike: .* got float32 \(2,\), float32 \(3,\)"):
        backend.predict([np.zeros(2), np.zeros(3)])


def test_items_that_cannot_be_written_to_stay_as_they_are(tmp_path: Path) -> None:
    backend = load(save_weights(tmp_path), **factory("Choosy"))
    item = np.array([1, 2], np.float32)
    item.flags.writeable = False
    outputs = backend.predict([item])
    assert isinstance(outputs, dict)
    np.testing.assert_array_equal(outputs["output"], [[2, 4]])
    np.testing.assert_array_equal(item, [1, 2])


@pytest.mark.parametrize("kind", ["eager", "torchscript"])
@pytest.mark.parametrize(
    "shape", [(4, 8, 8), (8, 8), (3,), (1, 3, 8, 8)], ids=lambda shape: "x".join(map(str, shape))
)
def test_a_wrong_shape_that_only_the_model_knows_tells_what_to_declare(
    tmp_path: Path, kind: str, shape: tuple[int, ...]
) -> None:
    if kind == "torchscript":
        torch.jit.script(Convolution()).save(tmp_path / "model.pt")
        backend = load(tmp_path / "model.pt")
    else:
        torch.save(Convolution().state_dict(), tmp_path / "model.pt")
        backend = load(tmp_path / "model.pt", **factory("Convolution"))
    with pytest.raises(
        PredictError, match=r"The model failed: got .*\. If .* set `input\.shape`, "
    ):
        backend.predict([np.zeros(shape, np.float32)])


@pytest.mark.parametrize("kind", ["eager", "torchscript"])
def test_one_bad_item_fails_alone(tmp_path: Path, kind: str) -> None:
    backend = load(save_weights(tmp_path), **factory("Choosy"))
    expected = "The model failed: got RuntimeError: negative"
    if kind == "torchscript":
        torch.jit.script(Choosy()).save(tmp_path / "model.pt")
        backend = load(tmp_path / "model.pt")
        expected = "The model failed: got Error: RuntimeError: negative"
    items = [np.array([number], np.float32) for number in (1, -2, 3)]
    first, second, third = run_batch(backend.predict, items)
    assert isinstance(first, Row)
    assert isinstance(third, Row)
    assert (first.value["output"].tolist(), third.value["output"].tolist()) == ([2], [6])
    assert isinstance(second, PredictError)
    with pytest.raises(PredictError, match=expected):
        raise second
    assert "\n" not in str(second)


def test_an_operation_that_fails_says_why_in_one_line(tmp_path: Path) -> None:
    torch.jit.script(CONVOLUTION).save(tmp_path / "model.pt")
    with pytest.raises(PredictError) as info:
        load(tmp_path).predict([np.zeros((5, 8, 8), np.float32)])
    assert "to have 3 channels, but got 5 channels" in str(info.value)
    assert "\n" not in str(info.value)


def test_numbers_that_are_not_finite_pass(tmp_path: Path) -> None:
    backend = load(save_weights(tmp_path), **factory("Optional"))
    outputs = backend.predict([np.array([np.nan, np.inf, 1])])
    np.testing.assert_array_equal(outputs["output"], [[np.nan, np.inf, 1]])  # type: ignore[call-overload]
