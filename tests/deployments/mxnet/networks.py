"""Small networks for the tests, and how each is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deployments.mxnet.backend import MXNetBackend, MXNetSettings
from rayserve_app.artifacts.mxnet_environment import import_mxnet
from rayserve_app.settings.model import parse_settings


def perceptron(hidden: int = 4) -> Any:
    """Return a `HybridSequential` of (N, 3) to (N, 2), without parameters."""
    mx = import_mxnet()
    net = mx.gluon.nn.HybridSequential()
    net.add(mx.gluon.nn.Dense(hidden, activation="relu", in_units=3))
    net.add(mx.gluon.nn.Dense(2, in_units=hidden))
    return net


def mixer() -> Any:
    """Return a network of two inputs and two outputs: 2 * image + mask, and their difference."""
    mx = import_mxnet()

    class Mixer(mx.gluon.HybridBlock):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            with self.name_scope():
                self.factor = self.params.get("factor", shape=(1,))

        def hybrid_forward(self, F: Any, image: Any, mask: Any, factor: Any) -> Any:
            return F.broadcast_mul(image, factor) + mask, image - mask

    return Mixer()


def plain() -> Any:
    """Return a block that cannot be traced."""
    return import_mxnet().gluon.nn.Sequential()


def save(net: Any, path: Path) -> str:
    """Save a network's parameters; those that it has none for yet are seeded."""
    mx = import_mxnet()
    mx.random.seed(1)
    net.initialize(mx.init.Normal(0.5))
    net.save_parameters(str(path))
    return str(path)


def load(path: Path | str, **model: Any) -> MXNetBackend:
    declared = {"input": {"type": "tensor"}, "path": str(path), "threads": {"compute": 1}}
    backend = MXNetBackend(parse_settings(MXNetSettings, {"model": declared | model}))
    backend.load()
    return backend
