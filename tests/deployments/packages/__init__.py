"""Model packages as their users write them, and a way to serve one without Ray."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deployments.sagemaker.backend import SageMakerBackend, SageMakerSettings
from rayserve_app.app import App, create_app
from rayserve_app.errors import LoadError
from rayserve_app.inference.model import Model
from rayserve_app.settings.model import parse_settings

HERE = Path(__file__).parent


@contextmanager
def served(path: Path | str, **settings: Any) -> Iterator[App]:
    """Serve a package, or one of this directory by its name, under the prefix `/m`."""
    where = HERE / path if isinstance(path, str) else path
    parsed = parse_settings(SageMakerSettings, {"model": {"path": str(where), **settings}})
    model = Model(parsed, SageMakerBackend(parsed), name="m")
    try:
        model.load()
        model.warm_up()
        yield create_app(model)
    finally:
        model.close()


def write(directory: Path, **files: str) -> Path:
    """Write a package with these files in `code/`; `inference_py` is `inference.py`."""
    code = directory / "code"
    code.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        stem, _, suffix = name.rpartition("_")
        (code / f"{stem}.{suffix}").write_text(text)
    return directory


def combine(directory: Path, package: str, *models: Path) -> Path:
    """Copy one of this directory's packages and put models beside its code."""
    shutil.copytree(HERE / package, directory)
    for model in models:
        shutil.copytree(model, directory / model.name)
    return directory


def save_half_plus_three(path: Path) -> None:
    """Save the model of the container's own tests, y = x / 2 + 3, for x of any shape."""
    import tensorflow as tf

    class HalfPlusThree(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, "x")])
        def __call__(self, x: Any) -> dict[str, Any]:
            return {"y": x / 2 + 3}

    model = HalfPlusThree()
    tf.saved_model.save(model, str(path), signatures=model.__call__)


def install_serving_api(target: Path) -> None:
    """Install `tensorflow-serving-api` alone: TensorFlow, which it needs, is there, as in the
    container, which has both."""
    install = [sys.executable, "-m", "uv", "pip", "install", "--python", sys.executable]
    run = subprocess.run(
        [*install, "--no-deps", "--target", str(target), "tensorflow-serving-api==2.21.0"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if run.returncode:
        pytest.fail(f"tensorflow-serving-api does not install: {run.stderr.splitlines()[-1]}")


def check_refused(path: Path | str, sentence: str, **settings: Any) -> None:
    """Check that a package does not load, and that this pattern is in what is told."""
    with pytest.raises(LoadError, match=f"(?s){sentence}"), served(path, **settings):
        pytest.fail("The package is served")
