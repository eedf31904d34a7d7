"""`TorchBackend` on files made here, in every format; expected is the module called by hand.

No test needs a GPU; where there is one, all of them run on it.
"""

from __future__ import annotations

import argparse
import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import skimage.data

from deployments.torch.backend import TorchBackend, TorchSettings
from rayserve_app.errors import (
    ConfigurationError,
    LoadError,
    MissingDependency,
    PredictError,
    ShapeMismatch,
)
from rayserve_app.inference.batcher import run_batch
from rayserve_app.payloads.inputs import Inputs
from rayserve_app.settings.model import LimitSettings, parse_settings
from rayserve_app.types import Row, TensorSpec

torch = pytest.importorskip("torch")

# What people have saved stays to be served.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

Settings = dict[str, Any]


class Convolution(torch.nn.Module):
    """(N, 3, H, W) to (N, 4) scores, for images of any size."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, channels, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(channels)
        self.dense = torch.nn.Linear(channels, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = torch.relu(self.norm(self.conv(image)))
        return self.dense(features.mean([2, 3]))


class Mixture(torch.nn.Module):
    """Two arguments, of which one is an integer, and two results by name."""

    def forward(self, x: torch.Tensor, factor: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"scaled": x * factor[:, None], "factor": factor}


class Couple(NamedTuple):
    low: torch.Tensor
    high: torch.Tensor


class Pair(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.amin(1), x.amax(1)


class NamedPair(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> Couple:
        return Couple(x.amin(1), x.amax(1))


class Choosy(torch.nn.Module):
    """Fails on a batch that holds a negative number."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if (x < 0).any():
            raise RuntimeError("negative\nsecond line")
        return 2 * x


class Optional(torch.nn.Module):
    def forward(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return x if bias is None else x + bias


class Whole(torch.nn.Module):
    """An answer without the batch axis."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum()


class Constant(torch.nn.Module):
    """Answers its own weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.nn.Parameter:
        return self.weight


class Strange(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return {"text": "no tensor"}


class Double(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


class Threshold(torch.nn.Module):
    def forward(self, x: torch.Tensor, least: torch.Tensor) -> torch.Tensor:
        return x >= least


class Outer(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a + b.sum()


class Sum(torch.nn.Module):
    def forward(self, parts: list[torch.Tensor]) -> torch.Tensor:
        return parts[0] + parts[1]


def fail() -> Any:
    raise ZeroDivisionError("no such layer")


def not_a_module() -> dict[str, Any]:
    return {}


def trained(module: torch.nn.Module) -> torch.nn.Module:
    """Return the module with weights and statistics that are not those of a new one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(0.5 * torch.rand(tensor.shape) + 0.1)
    return module.eval()


CONVOLUTION = trained(Convolution())
PHOTO = skimage.data.astronaut()[::16, ::16].transpose(2, 0, 1).astype(np.float32) / 255
PHOTOS = [PHOTO, PHOTO[:, ::-1].copy(), 1 - PHOTO]


def by_hand(module: torch.nn.Module, items: list[np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        return module(torch.tensor(np.stack(items))).numpy()


def create_backend(path: Path, **settings: Any) -> TorchBackend:
    model = {"path": str(path), "input": {"type": "tensor"}} | settings
    return TorchBackend(parse_settings(TorchSettings, {"model": model}))


def load(path: Path, **settings: Any) -> TorchBackend:
    backend = create_backend(path, **settings)
    backend.load()
    return backend


def factory(name: str, **arguments: Any) -> Settings:
    return {"module": f"{__name__}:{name}", "arguments": arguments}


def exported(path: Path, module: torch.nn.Module, *args: Any, **options: Any) -> Path:
    torch.export.save(torch.export.export(module.eval(), args, **options), path)
    return path


BATCH = torch.export.Dim("batch")


def save_scripted(path: Path) -> Settings:
    torch.jit.script(CONVOLUTION).save(path / "model.pt")
    return {}


def save_traced(path: Path) -> Settings:
    torch.jit.trace(CONVOLUTION, torch.zeros(2, *PHOTO.shape)).save(path / "model.ts")
    return {}


def save_exported(path: Path) -> Settings:
    exported(
        path / "model.pt2",
        CONVOLUTION,
        torch.zeros(2, *PHOTO.shape),
        dynamic_shapes={"image": {0: BATCH}},
    )
    return {"trusted": True}


def save_exported_automatically(path: Path) -> Settings:
    """Its batch axis is from 2 on, as PyTorch says it, and yet takes one item."""
    shapes = {"image": {0: torch.export.Dim.AUTO}}
    exported(path / "model.pt2", CONVOLUTION, torch.zeros(2, *PHOTO.shape), dynamic_shapes=shapes)
    return {"trusted": True}


def save_exported_for_two(path: Path) -> Settings:
    exported(path / "model.pt2", CONVOLUTION, torch.zeros(2, *PHOTO.shape))
    return {"trusted": True}


def save_state_dict(path: Path) -> Settings:
    torch.save(CONVOLUTION.state_dict(), path / "model.pth")
    return factory("Convolution")


def save_old_state_dict(path: Path) -> Settings:
    weights = CONVOLUTION.state_dict()
    torch.save(weights, path / "model.pth", _use_new_zipfile_serialization=False)
    return factory("Convolution", channels=8)


def save_checkpoint(path: Path) -> Settings:
    torch.save({"epoch": 3, "state_dict": CONVOLUTION.state_dict()}, path / "model.pt")
    return factory("Convolution")


def save_safetensors(path: Path) -> Settings:
    from safetensors.torch import save_file

    save_file(CONVOLUTION.state_dict(), path / "model.safetensors")
    return factory("Convolution")


def save_module(path: Path) -> Settings:
    torch.save(CONVOLUTION, path / "model.pt")
    return {"trusted": True}


FORMATS = [
    save_scripted,
    save_traced,
    save_exported,
    save_exported_automatically,
    save_exported_for_two,
    save_state_dict,
    save_old_state_dict,
    save_checkpoint,
    save_safetensors,
    save_module,
]


@pytest.fixture(params=FORMATS, ids=lambda save: save.__name__.removeprefix("save_"))
def convolution(request: pytest.FixtureRequest, tmp_path: Path) -> TorchBackend:
    """The same module, loaded from each format; `path` names the folder of the one file."""
    return load(tmp_path, **request.param(tmp_path))


def save_weights(path: Path, module: torch.nn.Module | None = None) -> Path:
    file = path / "model.pth"
    torch.save({} if module is None else module.state_dict(), file)
    return file


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


def save_mixture(path: Path, kind: str) -> Settings:
    if kind == "torchscript":
        torch.jit.script(Mixture()).save(path / "model.pt")
        return {}
    if kind == "state_dict":
        save_weights(path)
        return factory("Mixture")
    inputs = {"x": torch.zeros(2, 2), "factor": torch.zeros(2, dtype=torch.int64)}
    shapes = {"x": {0: BATCH}, "factor": {0: BATCH}}
    if kind == "export by name":
        exported(path / "model.pt2", Mixture(), kwargs=inputs, dynamic_shapes=shapes)
    else:
        exported(path / "model.pt2", Mixture(), *inputs.values(), dynamic_shapes=shapes)
    return {"trusted": True}


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
    file = save_weights(tmp_path, globals()[module]())
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


class TestExportedPrograms:
    def test_know_their_inputs_and_outputs(self, tmp_path: Path) -> None:
        backend = load(tmp_path, **save_exported(tmp_path))
        metadata = backend.metadata()
        assert metadata.platform == "pytorch"
        assert metadata.inputs == (TensorSpec("image", "float32", (-1, 3, 32, 32)),)
        assert metadata.outputs == (TensorSpec("output", "float32", (-1, 4)),)

    def test_know_their_names_and_types(self, tmp_path: Path) -> None:
        backend = load(tmp_path, **save_mixture(tmp_path, "export by name"))
        assert backend.metadata().inputs == (
            TensorSpec("x", "float32", (-1, 2)),
            TensorSpec("factor", "int64", (-1,)),
        )
        assert set(backend.metadata().outputs) == {
            TensorSpec("scaled", "float32", (-1, 2)),
            TensorSpec("factor", "int64", (-1,)),
        }

    @pytest.mark.parametrize(
        ("item", "sentence"),
        [
            (np.zeros((3, 8, 8)), r"expected float32 \(3, 32, 32\), got float64 \(3, 8, 8\)"),
            (np.zeros((32, 32)), r"got float64 \(32, 32\) - at `image`"),
            (np.zeros((3, 32, 32), np.complex64), "got complex64"),
        ],
    )
    def test_refuse_what_does_not_fit(self, tmp_path: Path, item: Any, sentence: str) -> None:
        backend = load(tmp_path, **save_exported(tmp_path))
        with pytest.raises(ShapeMismatch, match=sentence):
            backend.predict([item])

    def test_take_integers_for_floats(self, tmp_path: Path) -> None:
        backend = load(tmp_path, **save_exported(tmp_path))
        outputs = backend.predict([np.ones((3, 32, 32), np.int64)])
        expected = by_hand(CONVOLUTION, [np.ones((3, 32, 32), np.float32)])
        np.testing.assert_allclose(outputs["output"], expected, rtol=1e-5)  # type: ignore[call-overload]

    @pytest.mark.parametrize("count", [1, 3, 4, 5, 9])
    def test_of_a_range_of_items_run_in_pieces_of_it(self, tmp_path: Path, count: int) -> None:
        few = torch.export.Dim("few", min=3, max=4)
        path = exported(
            tmp_path / "model.pt2", Double(), torch.zeros(4, 2), dynamic_shapes=({0: few},)
        )
        items = [np.array([number, 1], np.float32) for number in range(count)]
        outputs = load(path, trusted=True).predict(items)
        np.testing.assert_array_equal(outputs["output"], 2 * np.stack(items))  # type: ignore[call-overload]

    def test_with_a_scalar_run_item_by_item(self, tmp_path: Path) -> None:
        path = exported(
            tmp_path / "model.pt2",
            Threshold(),
            torch.zeros(1, 2),
            torch.tensor(0.0),
        )
        x = np.array([1, 2], np.float32)
        outputs = load(path, trusted=True).predict(
            [{"x": x, "least": 2.0}, {"x": x, "least": np.array(0.5)}]
        )
        np.testing.assert_array_equal(outputs["output"], [[False, True], [True, True]])  # type: ignore[call-overload]

    def test_of_unlike_numbers_of_items_cannot_be_batched(self, tmp_path: Path) -> None:
        path = exported(tmp_path / "model.pt2", Outer(), torch.zeros(2, 1), torch.zeros(3, 1))
        with pytest.raises(LoadError, match=r"cannot be batched: .* got a \(2, 1\), b \(3, 1\)"):
            load(path, trusted=True)

    def test_that_take_more_than_tensors_are_refused(self, tmp_path: Path) -> None:
        path = exported(tmp_path / "model.pt2", Sum(), [torch.zeros(2), torch.zeros(2)])
        with pytest.raises(LoadError, match="takes more than tensors"):
            load(path, trusted=True)

    def test_keep_their_precision(self, tmp_path: Path) -> None:
        with pytest.raises(LoadError, match=r"fixed: .* got bfloat16 - at `args.model.precision`"):
            load(tmp_path, **save_exported(tmp_path), precision="bfloat16")

    def test_of_half_precision_take_and_answer_float32(self, tmp_path: Path) -> None:
        zeros = torch.zeros(2, 2, dtype=torch.bfloat16)
        path = exported(tmp_path / "model.pt2", Double(), zeros, dynamic_shapes=({0: BATCH},))
        backend = load(path, trusted=True)
        assert backend.metadata().inputs == (TensorSpec("x", "float32", (-1, 2)),)
        outputs = backend.predict([np.array([1, 2], np.float32)])
        np.testing.assert_array_equal(  # type: ignore[call-overload]
            outputs["output"], np.float32([[2, 4]]), strict=True
        )


def test_other_files_know_what_the_yaml_says(tmp_path: Path) -> None:
    settings = save_state_dict(tmp_path)
    assert load(tmp_path, **settings).metadata() == ("pytorch", (), ())
    declared = {"type": "tensor", "shape": [3, -1, -1]}
    inputs = load(tmp_path, **settings, input=declared).metadata().inputs
    assert inputs == (TensorSpec("input", "float32", (-1, 3, -1, -1)),)


def test_classes_are_answered_by_name(tmp_path: Path) -> None:
    classes = {"labels": ["cat", "dog", "emu", "fox"], "top_n": 2, "softmax": True}
    backend = load(tmp_path, **save_state_dict(tmp_path), classes=classes)
    answers = backend.predict(PHOTOS)
    probabilities = torch.softmax(torch.from_numpy(by_hand(CONVOLUTION, PHOTOS)), 1)
    scores, positions = probabilities.topk(2)
    for answer, values, indices in zip(answers, scores, positions, strict=True):
        assert [each["label"] for each in answer] == [classes["labels"][i] for i in indices]
        np.testing.assert_allclose([each["score"] for each in answer], values, rtol=1e-4)


class Marker:
    """What runs code where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("kind", ["torch.save", "legacy", "pickle", "jit"])
def test_no_code_in_a_file_runs_unless_it_is_trusted(tmp_path: Path, kind: str) -> None:
    marker, file = tmp_path / "ran", tmp_path / "model.pt"
    content = {"weight": torch.zeros(1), "marker": Marker(marker)}
    if kind == "pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=kind != "legacy")
    if kind == "jit":  # dressed as TorchScript
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr("model/constants.pkl", pickle.dumps(Marker(marker)))
            archive.writestr("model/code/__torch__.py", "")
    with pytest.raises(LoadError):
        load(file, **factory("Convolution"))
    assert not marker.exists()
    with pytest.raises(ConfigurationError, match=r"it needs 'trusted: true'"):
        load(file, format="pickle")
    assert not marker.exists()


def test_an_exported_program_can_run_code_so_it_is_not_read_unless_trusted(tmp_path: Path) -> None:
    """`torch.export.load` of 2.13 unpickles sample inputs, whatever they are."""
    marker = tmp_path / "ran"
    exported(tmp_path / "good.pt2", Double(), torch.zeros(2))
    pickled = io.BytesIO()
    torch.save(Marker(marker), pickled)
    with (
        zipfile.ZipFile(tmp_path / "good.pt2") as good,
        zipfile.ZipFile(tmp_path / "bad.pt2", "w") as bad,
    ):
        for name in good.namelist():
            is_sample = "sample_inputs" in name
            bad.writestr(name, pickled.getvalue() if is_sample else good.read(name))
    for settings in ({}, {"format": "export"}):
        with pytest.raises((LoadError, ConfigurationError), match="trusted: true"):
            load(tmp_path / "bad.pt2", **settings)
    assert not marker.exists()
    with pytest.raises(LoadError, match=r"bad\.pt2` cannot be read as torch\.export"):
        load(tmp_path / "bad.pt2", trusted=True)
    assert marker.exists()


def test_a_trusted_pickle_does_run(tmp_path: Path) -> None:
    torch.save(Marker(tmp_path / "ran"), tmp_path / "model.pt")
    with pytest.raises(LoadError, match=r"holds no module: expected a torch\.nn\.Module"):
        load(tmp_path / "model.pt", format="pickle", trusted=True)
    assert (tmp_path / "ran").exists()


def test_a_whole_module_says_how_it_may_be_served(tmp_path: Path) -> None:
    save_module(tmp_path)
    sentence = r"holds more than weights: .*`trusted: true`, and no `module` for a whole module"
    for settings in ({}, factory("Convolution")):
        with pytest.raises(LoadError, match=sentence):
            load(tmp_path, **settings)
    with pytest.raises(LoadError, match=r"got Convolution.*A whole module needs no `module`"):
        load(tmp_path, trusted=True, **factory("Convolution"))


def test_trust_is_all_that_a_pickled_module_needs(tmp_path: Path) -> None:
    for is_zip in (True, False):
        torch.save(CONVOLUTION, tmp_path / "model.pt", _use_new_zipfile_serialization=is_zip)
        outputs = load(tmp_path, trusted=True).predict(PHOTOS)
        assert isinstance(outputs, dict)
        expected = by_hand(CONVOLUTION, PHOTOS)
        np.testing.assert_allclose(outputs["output"], expected, rtol=1e-5, atol=1e-6)


def test_trusted_weights_alone_need_their_module_still(tmp_path: Path) -> None:
    save_state_dict(tmp_path)
    with pytest.raises(LoadError, match=r"holds no module: .* got OrderedDict.*`module: package"):
        load(tmp_path, trusted=True)
    assert load(tmp_path, trusted=True, **factory("Convolution")).predict(PHOTOS)


def test_a_trusted_checkpoint_may_hold_more_than_weights(tmp_path: Path) -> None:
    content = {"state_dict": CONVOLUTION.state_dict(), "args": argparse.Namespace(epochs=3)}
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(LoadError, match="holds more than weights"):
        load(tmp_path, **factory("Convolution"))
    assert load(tmp_path, trusted=True, **factory("Convolution")).predict(PHOTOS)


@pytest.mark.parametrize("save", FORMATS, ids=lambda save: save.__name__.removeprefix("save_"))
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_file_that_is_cut_is_named(
    tmp_path: Path, save: Callable[[Path], Settings], share: float
) -> None:
    settings = save(tmp_path)
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(LoadError, match=file.name):
        load(tmp_path, **settings)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\x89HDF\r\n\x1a\n", "HDF5, as Keras writes it"),
        (b"\x12\x01\0\0\0\0\0\0", "parameters of MXNet"),
        (pickle.dumps({}), "a pickle"),
        (b"weights", r"bytes that begin with b'weights'"),
    ],
)
def test_a_file_of_another_framework_is_named(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    file = tmp_path / "model.pt"
    file.write_bytes(content)
    with pytest.raises(LoadError, match=f"is no file of PyTorch or safetensors: got {sentence}"):
        load(file)


def test_an_empty_file_in_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.pt").touch()
    with pytest.raises(LoadError, match=r"model\.pt` is no file of .*: got an empty file"):
        load(tmp_path)


def test_a_keras_archive_is_told_from_one_of_pytorch(tmp_path: Path) -> None:
    file = tmp_path / "model.keras"
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("metadata.json", "config.json", "model.weights.h5"):
            archive.writestr(name, "{}")
    with pytest.raises(LoadError, match=r"got a zip file of metadata\.json.*deployments\.tensorfl"):
        load(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=str(tmp_path / "absent.pt")):
        load(tmp_path / "absent.pt")


def test_a_folder_holds_one_model(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").touch()
    with pytest.raises(LoadError, match=r"expected one file of \.pt, .* got labels\.txt"):
        load(tmp_path)
    (tmp_path / "a.pt").touch()
    (tmp_path / "b.pth").touch()
    with pytest.raises(LoadError, match=r"got a\.pt, b\.pth, labels\.txt"):
        load(tmp_path)


def test_weights_alone_need_their_module(tmp_path: Path) -> None:
    save_state_dict(tmp_path)
    with pytest.raises(LoadError, match=r"weights alone: .* - at `args\.model\.module`"):
        load(tmp_path)
    with pytest.raises(ConfigurationError, match="it needs 'module'"):
        load(tmp_path, format="state_dict")


@pytest.mark.parametrize(
    ("module", "error", "sentence"),
    [
        ("fail", LoadError, "makes no module: got ZeroDivisionError: no such layer"),
        ("not_a_module", LoadError, r"expected a torch\.nn\.Module, got dict"),
        ("absent", ConfigurationError, "has no attribute 'absent'"),
    ],
)
def test_a_factory_that_fails_is_named(
    tmp_path: Path, module: str, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=rf"{sentence}.*args\.model\.module"):
        load(save_weights(tmp_path), **factory(module))


def test_arguments_that_the_factory_lacks_are_named(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="unexpected keyword argument 'depth'"):
        load(save_weights(tmp_path), **factory("Convolution", depth=3))


def test_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    weights = CONVOLUTION.state_dict()
    weights["head.weight"] = weights.pop("dense.weight")
    torch.save(weights, tmp_path / "model.pth")
    with pytest.raises(LoadError) as info:
        load(tmp_path, **factory("Convolution", channels=16))
    for part in ('Missing key(s) in state_dict: "dense.weight"', '"head.weight"', "conv.weight"):
        assert part in str(info.value)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("content", [torch.zeros(3), [torch.zeros(3)]])
def test_a_file_without_a_state_dict_is_named(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(LoadError, match="holds no state dict: expected a mapping"):
        load(tmp_path, **factory("Convolution"))


def test_a_format_that_is_given_is_believed(tmp_path: Path) -> None:
    save_state_dict(tmp_path)
    for format in ("torchscript", "export", "safetensors"):
        with pytest.raises(LoadError, match=r"model\.pth` cannot be read as"):
            load(tmp_path, format=format, trusted=True, **factory("Convolution"))


@pytest.mark.parametrize("kind", ["bytes", "string"])
def test_models_of_bytes_and_strings_are_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ConfigurationError, match=f"takes arrays, not input of type '{kind}'"):
        create_backend(tmp_path, input={"type": kind})


def test_another_checksum_is_refused(tmp_path: Path) -> None:
    settings = save_state_dict(tmp_path)
    with pytest.raises(LoadError):
        load(tmp_path / "model.pth", **settings, sha256="0" * 64)


@pytest.mark.parametrize("package", ["torch", "safetensors"])
def test_a_missing_package_has_a_command(
    tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = save_safetensors(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"{package}.torch", raising=False)
    with pytest.raises(MissingDependency, match=r'pip install "rayserve-app\[torch\]"'):
        load(tmp_path, **settings)


def test_a_fresh_process_loads_late_and_with_the_given_threads(tmp_path: Path) -> None:
    torch.jit.script(CONVOLUTION).save(tmp_path / "model.pt")
    script = f"""
import sys
from deployments.torch.backend import TorchBackend, TorchSettings
model = {{"path": {str(tmp_path)!r}, "input": {{"type": "tensor"}}, "threads": {{"compute": 3}}}}
backend = TorchBackend(TorchSettings.model_validate(model))
assert "torch" not in sys.modules
backend.load()
import torch
print(torch.get_num_threads(), torch.get_num_interop_threads())
backend.load()
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "3 1\n"
    assert ran.stderr == ""
