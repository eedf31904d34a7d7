"""What MXNet's files may hold, and what is said of those that cannot be loaded."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rayserve_app.artifacts.mxnet_environment import import_mxnet
from rayserve_app.errors import ConfigurationError, LoadError
from tests.deployments.mxnet import networks
from tests.deployments.mxnet.networks import load, save

mx = import_mxnet()

PERCEPTRON = "tests.deployments.mxnet.networks:perceptron"
ITEMS = list(np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32))


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parameters of a perceptron, as `save_parameters` writes them."""
    path = tmp_path_factory.mktemp("params") / "net.params"
    save(networks.perceptron(), path)
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolution and a perceptron, as `HybridBlock.export` writes them, with two epochs."""
    directory = tmp_path_factory.mktemp("exported")
    mx.random.seed(2)
    net = mx.gluon.nn.HybridSequential()
    net.add(mx.gluon.nn.Conv2D(2, 3, prefix="conv_"), mx.gluon.nn.BatchNorm(prefix="norm_"))
    net.add(mx.gluon.nn.Dense(4, prefix="dense_"))
    net.initialize(mx.init.Normal(0.5))
    net.hybridize()
    net(mx.nd.zeros((1, 3, 8, 8)))
    net.export(str(directory / "net"), epoch=1)
    net.collect_params()["dense_bias"].set_data(mx.nd.ones(4))
    net.export(str(directory / "net"), epoch=12)
    return directory


IMAGES = list(np.random.default_rng(1).normal(size=(4, 3, 8, 8)).astype(np.float32))


def imported(directory: Path, epoch: int) -> Any:
    """Return what MXNet's own reader makes of the pair, called by hand."""
    block = mx.gluon.SymbolBlock.imports(
        str(directory / "net-symbol.json"), ["data"], str(directory / f"net-{epoch:04}.params")
    )
    return block(mx.nd.array(np.stack(IMAGES))).asnumpy()


@pytest.mark.parametrize(
    ("file", "settings", "epoch"),
    [
        ("", {}, 12),
        ("", {"epoch": 1}, 1),
        ("", {"prefix": "net"}, 12),
        ("net-symbol.json", {}, 12),
        ("net-symbol.json", {"epoch": 1}, 1),
        ("net-0001.params", {}, 1),
    ],
)
def test_an_exported_pair_answers_as_mxnet_does(
    exported: Path, file: str, settings: dict[str, Any], epoch: int
) -> None:
    backend = load(exported / file, **settings)
    outputs = backend.predict(IMAGES)
    assert list(outputs) == ["dense_fwd"]
    np.testing.assert_allclose(outputs["dense_fwd"], imported(exported, epoch), rtol=1e-5)


def test_an_exported_pair_comes_in_an_archive(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYSERVE_CACHE", str(tmp_path / "cache"))
    archive = shutil.make_archive(str(tmp_path / "model"), "gztar", exported)
    actual = load(archive).predict(IMAGES)["dense_fwd"]
    np.testing.assert_allclose(actual, imported(exported, 12), rtol=1e-5)


@pytest.mark.parametrize("layer", ["conv_fwd", "conv_fwd_output"])
def test_an_inner_output_of_an_exported_pair(exported: Path, layer: str) -> None:
    arrays = mx.nd.load(str(exported / "net-0001.params"))
    weight, bias = arrays["arg:conv_weight"], arrays["arg:conv_bias"]
    expected = mx.nd.Convolution(
        mx.nd.array(np.stack(IMAGES)), weight, bias, kernel=(3, 3), num_filter=2
    )
    actual = load(exported, epoch=1, layer=layer).predict(IMAGES)
    np.testing.assert_allclose(actual["conv_fwd"], expected.asnumpy(), rtol=1e-4, atol=1e-6)


def test_labels_of_training_need_not_be_sent(tmp_path: Path) -> None:
    """`Module.save_checkpoint` leaves the loss in the graph."""
    data = mx.sym.var("data")
    scores = mx.sym.FullyConnected(data, num_hidden=2, name="fc")
    symbol = mx.sym.SoftmaxOutput(scores, name="softmax")
    module = mx.mod.Module(symbol, label_names=["softmax_label"])
    module.bind([("data", (1, 3))], [("softmax_label", (1,))], for_training=False)
    module.init_params(mx.init.Normal(0.5))
    module.save_checkpoint(str(tmp_path / "net"), 3)
    weights, _ = module.get_params()
    logits = np.stack(ITEMS) @ weights["fc_weight"].asnumpy().T + weights["fc_bias"].asnumpy()
    powers = np.exp(logits)
    outputs = load(tmp_path).predict(ITEMS)
    np.testing.assert_allclose(
        outputs["softmax"], powers / powers.sum(axis=1, keepdims=True), rtol=1e-5
    )


def test_outputs_are_chosen_by_name(tmp_path: Path) -> None:
    data = mx.sym.var("data")
    group = mx.sym.Group([mx.sym.relu(data, name="up"), mx.sym.negative(data, name="down")])
    group.save(str(tmp_path / "net-symbol.json"))
    mx.nd.save(str(tmp_path / "net-0000.params"), {"arg:unused_by_all": mx.nd.ones(1)})
    with pytest.raises(LoadError, match=r"another network's parameters.*got `unused_by_all`"):
        load(tmp_path)
    mx.nd.save(str(tmp_path / "net-0000.params"), {})
    backend = load(tmp_path, output={"outputs": ["down", "up"]})
    assert list(backend.predict(ITEMS)) == ["down", "up"]
    assert [spec.name for spec in backend.metadata().outputs] == ["down", "up"]
    np.testing.assert_array_equal(backend.predict(ITEMS)["down"], -np.stack(ITEMS))
    with pytest.raises(LoadError, match="no such output: expected one of up, down, got side"):
        load(tmp_path, output={"outputs": ["side"]})


def test_a_parameter_file_is_found_in_its_directory(params: Path) -> None:
    load(params.parent, module=PERCEPTRON).predict(ITEMS)


def test_a_zoo_network_written_in_the_old_manner(tmp_path: Path) -> None:
    """The zoo's own files name parameters without places, as `save_params` did."""
    net = mx.gluon.model_zoo.vision.get_model("mobilenet0.25", classes=5)
    net.initialize(mx.init.Normal(0.1))
    image = mx.nd.ones((1, 3, 64, 64))
    expected = net(image).asnumpy()
    net.collect_params().save(str(tmp_path / "net.params"), strip_prefix=net.prefix)
    backend = load(tmp_path, zoo="mobilenet0.25", arguments={"classes": 5})
    actual = backend.predict([np.ones((3, 64, 64), np.float32)])["output"]
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def write_keras(path: Path) -> None:
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))


def write_numpy(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, x=np.zeros(3))


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (write_keras, "no file of MXNet's parameters: got HDF5, as Keras writes it"),
        (write_numpy, "no file of MXNet's parameters: got a zip file, as PyTorch and numpy"),
        (lambda path: path.write_bytes(pickle.dumps([1])), "got a pickle"),
        (lambda path: path.write_text("hello world"), "got bytes that begin with b'hello wo'"),
        (lambda path: path.write_text("{}"), "got JSON"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: mx.nd.save(str(path), [mx.nd.ones(1)]), "have no names"),
    ],
)
def test_files_of_others_are_told_apart(
    tmp_path: Path, write: Callable[[Path], Any], sentence: str
) -> None:
    write(tmp_path / "net.params")
    with pytest.raises(LoadError, match=sentence):
        load(tmp_path / "net.params", module=PERCEPTRON)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(params: Path, tmp_path: Path, share: float) -> None:
    whole = params.read_bytes()
    (tmp_path / "net.params").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(LoadError, match=r"net\.params` is "):
        load(tmp_path / "net.params", module=PERCEPTRON)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"zoo": "resnet18_v1"}, "another network's parameters: got Parameter .* is missing"),
        ({"module": PERCEPTRON, "arguments": {"hidden": 5}}, "another network's.*shape"),
        (
            {"zoo": "resnet18v2"},
            r"zoo has no such network: expected one of `resnet18_v2`, .*\(34 in all\)"
            r", got `resnet18v2` - at `args\.model\.zoo`",
        ),
        (
            {"module": PERCEPTRON, "layer": "2"},
            "The network has no such block: expected one of `0`, `1`, got `2` - at .*layer`",
        ),
        ({"module": PERCEPTRON, "layer": "1.x"}, "Block `1` has no such block"),
        (
            {"module": "tests.deployments.mxnet.networks:plain"},
            "expected a gluon.HybridBlock, got Sequential - at `args.model.module`",
        ),
        ({}, "Parameters alone need `zoo` or `module`"),
    ],
)
def test_parameters_that_cannot_be_served(
    params: Path, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(LoadError, match=sentence):
        load(params, **settings)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"module": PERCEPTRON, "arguments": {"depth": 2}}, "does not take.*'depth'"),
        ({"zoo": "vgg11", "arguments": {"depth": 2}}, "does not take.*'depth'"),
        ({"module": "no_such_package:net"}, "No module named 'no_such_package'"),
    ],
)
def test_settings_that_do_not_make_a_network(
    params: Path, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        load(params, **settings)


def copy(exported: Path, target: Path) -> Path:
    shutil.copytree(exported, target, dirs_exist_ok=True)
    return target


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"No such file or directory: .*nowhere"):
        load(tmp_path / "nowhere")


def test_a_pair_without_its_parameters(exported: Path, tmp_path: Path) -> None:
    directory = copy(exported, tmp_path)
    with pytest.raises(LoadError, match=r"expected `net-0007\.params`"):
        load(directory, epoch=7)
    for file in directory.glob("*.params"):
        file.unlink()
    with pytest.raises(LoadError, match=r"expected `net-0000\.params`, got net-symbol\.json"):
        load(directory)


def test_several_pairs_need_a_choice(exported: Path, tmp_path: Path) -> None:
    directory = copy(exported, tmp_path)
    shutil.copy(directory / "net-symbol.json", directory / "other-symbol.json")
    with pytest.raises(LoadError, match=r"No network to choose .* - at `args\.model\.prefix`"):
        load(directory)
    load(directory, prefix="net")


def test_parameters_that_a_pair_lacks(exported: Path, tmp_path: Path) -> None:
    directory = copy(exported, tmp_path)
    arrays = mx.nd.load(str(directory / "net-0012.params"))
    del arrays["arg:conv_weight"], arrays["aux:norm_running_var"]
    mx.nd.save(str(directory / "net-0012.params"), arrays)
    with pytest.raises(LoadError, match="none for `conv_weight`, `norm_running_var`"):
        load(directory)


def test_parameters_of_another_shape(exported: Path, tmp_path: Path) -> None:
    directory = copy(exported, tmp_path)
    arrays = mx.nd.load(str(directory / "net-0012.params"))
    arrays["arg:conv_bias"] = mx.nd.ones(3)
    mx.nd.save(str(directory / "net-0012.params"), arrays)
    with pytest.raises(LoadError, match=r"do not fit the graph.*conv_fwd.*\(1, 3, 8, 8\)"):
        load(directory, input={"type": "tensor", "shape": [3, 8, 8]})


@pytest.mark.parametrize("text", ["{}", "", "not JSON", json.dumps({"nodes": []})])
def test_a_symbol_that_is_none(exported: Path, tmp_path: Path, text: str) -> None:
    directory = copy(exported, tmp_path)
    (directory / "net-symbol.json").write_text(text)
    with pytest.raises(LoadError, match=r"net-symbol\.json` is not an MXNet symbol file"):
        load(directory)


def test_an_unknown_inner_output_names_those_alike(exported: Path) -> None:
    expected = "no such output: expected one of .*`conv_fwd_output`.*, got `conv_fwd_out`"
    with pytest.raises(LoadError, match=expected):
        load(exported, layer="conv_fwd_out")
