"""A ResNet of MXNet's model zoo with seeded weights, of which `features` makes an embedding.

Runs in MXNet's environment: `.venv-mxnet/bin/python -m rayserve_app.examples.resnet DIRECTORY`.
What it embeds means nothing; it has the layers, shapes and cost of the trained network.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from rayserve_app.artifacts.mxnet_environment import import_mxnet
from rayserve_app.types import Array

NETWORK = "resnet18_v2"

SIDE = 224
"""Height and width of the images that the zoo's networks were trained with."""


def build(directory: str | Path, *, network: str = NETWORK, seed: int = 0) -> Path:
    """Save the parameters as `NETWORK.params` in the directory, and return the file.

    The network takes (N, 3, 224, 224) float32, RGB, 0-1, normalised by ImageNet's mean and
    standard deviation; its block `features` answers (N, 512) float32, 2048 from `resnet50_v2` on.

    Args:
        network: a name of `mxnet.gluon.model_zoo.vision`.
        seed: the same seed gives the same weights.
    Raises:
        MissingDependency: this is not MXNet's environment.
    """
    mx = import_mxnet()
    net = mx.gluon.model_zoo.vision.get_model(network, pretrained=False)
    net.initialize()
    net(mx.nd.zeros((1, 3, SIDE, SIDE)))  # tells the layers how many channels reach them
    _set_weights(mx, net, np.random.default_rng(seed))
    target = Path(directory, f"{network}.params")
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_suffix(".partial")
    net.save_parameters(str(scratch))
    return scratch.replace(target)


def _set_weights(mx: Any, net: Any, random: np.random.Generator) -> None:
    """Give every layer weights that keep the signal's size through the residual sums."""
    for parameter in net.collect_params().values():
        values = _weights(parameter.name.rpartition("_")[2], parameter.shape, random)
        parameter.set_data(mx.nd.array(values.astype(np.float32)))


def _weights(kind: str, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    if kind == "weight":
        return random.normal(0, math.sqrt(2 / math.prod(shape[1:])), shape)  # He, for ReLU
    if kind == "gamma":
        return random.uniform(0.5, 0.9, shape)  # under 1: the sums add up
    if kind == "var":
        return random.uniform(0.8, 1.2, shape)
    return random.normal(0, 0.1, shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    parser.add_argument("--net", default=NETWORK, metavar="NAME", help="default: %(default)s")
    arguments = parser.parse_args()
    start = time.monotonic()
    file = build(arguments.directory, network=arguments.net)
    print(f"{file}: built in {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main()
