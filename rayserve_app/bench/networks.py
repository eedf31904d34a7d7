"""Models of the bench's own: one plain CNN in PyTorch and in TensorFlow, and a SageMaker package.

Seeded: what they answer means nothing, only what they cost counts, over 20 ms per image on two
cores. They are built for each run, `python -m rayserve_app.bench.networks DIRECTORY NAME ...`, in a
process of its own, so that no framework's memory and threads are the load generator's.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from rayserve_app.bench import texture_package
from rayserve_app.errors import LoadError

LAYERS: Final = ((32, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1))
"""Channels and stride of the 3x3 convolutions, ReLU after each."""

CLASSES: Final = 1000
"""As ImageNet has: an ordinary answer, 20 KB of JSON."""

WEIGHTS: Final = "network.safetensors"
"""The file in the model's folder."""

WEIGHTS_VARIABLE: Final = "RAYSERVE_BENCH_WEIGHTS"
"""Of a peer's environment: the path of the weights of `create_network`."""

SIDE: Final = 224
"""Height and width of the images that the networks take."""


def build(names: Iterable[str], directory: Path) -> None:
    """Build those of the applications named that have a model here, each in a folder of its name.

    Raises:
        LoadError: a framework is missing or failed.
    """
    own = sorted(BUILDERS.keys() & set(names))
    command = [sys.executable, "-m", __name__, str(directory), *own]
    if own and (run := subprocess.run(command, capture_output=True, text=True)).returncode:
        reason = "".join(run.stderr.splitlines()[-1:])
        install = 'pip install "rayserve-app[tensorflow,torch]"'
        raise LoadError(
            f"The bench's own models cannot be built ({', '.join(own)})",
            got=reason,
            remedy=install if reason.startswith("ModuleNotFoundError") else None,
        )


def create_network() -> Any:
    """Return the PyTorch module: (N, 3, SIDE, SIDE) float32 to (N, CLASSES) float32."""
    from torch import nn

    layers: list[Any] = []
    channels = 3
    for width, stride in LAYERS:
        layers += [nn.Conv2d(channels, width, 3, stride, padding=1), nn.ReLU()]
        channels = width
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)
    )


def build_torch(directory: Path) -> None:
    """Save weights for what `create_network` returns as safetensors."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(create_network().state_dict(), directory / WEIGHTS)


def build_tensorflow(directory: Path) -> None:
    """Save the same layers as a SavedModel: (N, SIDE, SIDE, 3) float32 to (N, CLASSES) float32."""
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((SIDE, SIDE, 3))])
    for width, stride in LAYERS:
        model.add(keras.layers.Conv2D(width, 3, stride, padding="same", activation="relu"))
    model.add(keras.layers.GlobalAveragePooling2D())
    model.add(keras.layers.Dense(CLASSES))
    model.export(str(directory), verbose=False)


def build_package(directory: Path) -> None:
    """Make a SageMaker package of the functions in texture_package.py."""
    (directory / "code").mkdir()
    shutil.copy(texture_package.__file__, directory / "code" / "inference.py")


BUILDERS: Final[Mapping[str, Callable[[Path], None]]] = {
    "tensorflow-network": build_tensorflow,
    "texture-package": build_package,
    "torch-network": build_torch,
}
"""By the application whose model each builds."""


if __name__ == "__main__":
    for each in sys.argv[2:]:
        folder = Path(sys.argv[1], each)
        folder.mkdir(parents=True)
        BUILDERS[each](folder)
