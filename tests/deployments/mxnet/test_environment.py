"""`MXNetBackend` as this environment sees it, and its own tests, run in MXNet's environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deployments.mxnet.backend import MXNetBackend, MXNetSettings
from rayserve_app.artifacts.mxnet_environment import find_python
from rayserve_app.errors import ConfigurationError, MissingDependency
from rayserve_app.settings.model import parse_settings

ROOT = Path(__file__).parents[3]
TESTS = ("tests/deployments/mxnet", "tests/deployments/test_contract.py")


def test_the_backend_passes_its_tests_in_mxnets_environment() -> None:
    try:
        python = find_python(os.environ, Path(sys.prefix))
    except ConfigurationError as error:
        pytest.skip(str(error))
    run = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2000:]


def test_outside_it_the_model_says_how_to_start_its_replicas(tmp_path: Path) -> None:
    backend = MXNetBackend(settings(path=str(tmp_path), zoo="resnet18_v2"))
    expected = (
        r"The model needs MXNet.*`runtime_env: \{py_executable: rayserve-mxnet-python\}`"
        r".*make \.venv-mxnet"
    )
    with pytest.raises(MissingDependency, match=expected):
        backend.load()


def settings(**model: Any) -> MXNetSettings:
    return parse_settings(MXNetSettings, {"model": {"input": {"type": "tensor"}} | model})


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ({"zoo": "vgg11", "module": "a:b"}, "expected one of 'zoo' and 'module'"),
        ({"zoo": "vgg11", "epoch": 3}, "'epoch' is for exported pairs"),
        ({"module": "a:b", "prefix": "net"}, "'prefix' is for exported pairs"),
        ({"arguments": {"classes": 10}}, "'arguments' are for 'zoo' or 'module'"),
        ({"input": {"type": "bytes"}}, "MXNet takes arrays, not input of type 'bytes'"),
        ({"epoch": -1}, "greater than or equal to 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(model: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        settings(path="models/net", **model)


def test_the_path_is_needed() -> None:
    with pytest.raises(ConfigurationError, match=r"Missing key 'path' - at `args\.model\.path`"):
        settings()
