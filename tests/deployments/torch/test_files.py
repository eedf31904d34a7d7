"""Files that are no model, that need trust, or that lack something: what is said of them."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rayserve_app.errors import (
    ConfigurationError,
    LoadError,
    MissingDependency,
)
from rayserve_app.types import TensorSpec
from tests.deployments.torch.networks import (
    CONVOLUTION,
    FORMATS,
    PHOTOS,
    Double,
    Settings,
    by_hand,
    create_backend,
    exported,
    factory,
    load,
    save_module,
    save_safetensors,
    save_state_dict,
    save_weights,
    torch,
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
    with pytest.raises(LoadError, match=f"is not a PyTorch or safetensors file: got {sentence}"):
        load(file)


def test_an_empty_file_in_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.pt").touch()
    with pytest.raises(LoadError, match=r"model\.pt` is not a .* file: got an empty file"):
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
