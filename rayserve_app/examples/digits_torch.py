"""A classifier of handwritten digits in PyTorch, whose weights are kept as safetensors: reading
them runs nothing, and the module that they are for is code of ours, named in the YAML.

It is trained when it is built, on scikit-learn's copy of the UCI digits (1,797 of 8 x 8 pixels).
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from rayserve_app.types import Array

FILE = "digits.safetensors"

HELD_BACK_EVERY = 4
"""One digit of this many is kept from training."""

EPOCHS = 12
BATCH_SIZE = 64
LEARNING_RATE = 3e-3


def create_network(width: int = 16) -> Any:
    """Return the untrained module: (N, 1, 8, 8) floats of 0-16, light on dark, to (N, 10) logits.

    Args:
        width: channels of the first convolution; the second has twice as many.
    """
    from torch import nn

    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(1),
            conv1=nn.Conv2d(1, width, 3, padding=1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(width, 2 * width, 3, padding=1),
            relu2=nn.ReLU(),
            pool=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            dense=nn.Linear(2 * width * 4 * 4, 10),
        )
    )


def build(path: str | Path, *, seed: int = 0) -> None:
    """Train the classifier and save its weights as `digits.safetensors` in a new folder."""
    from safetensors.torch import save_file

    weights = train(seed).state_dict()
    Path(path).mkdir()
    save_file(weights, Path(path, FILE))


def train(seed: int) -> Any:
    """Return the module after training, always the same for one seed."""
    import torch

    images, labels = map(torch.from_numpy, _share(held_back=False))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = create_network()
        optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
        for _ in range(EPOCHS):
            order = torch.randperm(len(images))
            for start in range(0, len(images), BATCH_SIZE):
                batch = order[start : start + BATCH_SIZE]
                logits = network(_shift(images[batch]))
                loss: Any = torch.nn.functional.cross_entropy(logits, labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
    return network.eval()


def held_back() -> tuple[Array, Array]:
    """Return the digits that training never sees, (450, 1, 8, 8) float32 of 0-16, and their labels,
    (450,) int64."""
    return _share(held_back=True)


def _share(*, held_back: bool) -> tuple[Array, Array]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    chosen = (np.arange(len(digits.target)) % HELD_BACK_EVERY == 0) == held_back
    images = digits.images[chosen, None].astype(np.float32)
    return images, digits.target[chosen].astype(np.int64)


def _shift(images: Any) -> Any:
    """Move a batch by one pixel at most, in a random direction."""
    import torch

    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    top, left = torch.randint(0, 3, (2,)).tolist()
    return padded[:, :, top : top + images.shape[2], left : left + images.shape[3]]
