"""Builds the example models: `python -m rayserve_app.examples.build models`."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rayserve_app.errors import MissingDependency
from rayserve_app.examples import darknet, digits, digits_torch

MODELS: dict[str, Callable[[Path], None]] = {
    "yolov3": darknet.build,
    "deep_image_model": digits.build,
    "digits": digits_torch.build,
}


def build_models(directory: Path) -> None:
    """Build all examples anew, each in a folder of its name in `directory`.

    Raises: MissingDependency: TensorFlow, PyTorch or scikit-learn is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's notes on this machine's CPU
    directory.mkdir(parents=True, exist_ok=True)
    for name, build in MODELS.items():
        start = time.monotonic()
        try:
            _replace(directory / name, build)
        except ModuleNotFoundError as exc:
            raise MissingDependency(
                f"Building `{name}` needs {exc.name}",
                remedy='pip install "rayserve-app[examples]"',
            ) from exc
        print(f"{directory / name}: built in {time.monotonic() - start:.1f} s")


def _replace(target: Path, build: Callable[[Path], None]) -> None:
    """Put a finished model at `target`; one that fails half-way leaves the old one in place."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        new, old = Path(scratch, "new"), Path(scratch, "old")
        build(new)
        if target.exists():
            target.rename(old)
        new.rename(target)


if __name__ == "__main__":
    build_models(Path(sys.argv[1]))
