"""The script that Ray starts MXNet's replicas with, and what it says where it cannot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rayserve_app.artifacts.mxnet_environment import find_python, import_mxnet
from rayserve_app.errors import ConfigurationError, MissingDependency

SCRIPT = Path(sys.executable).with_name("rayserve-mxnet-python")


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_the_script_becomes_the_python_with_arguments_and_variables(tmp_path: Path) -> None:
    text = 'echo "$$ $PYTHONPATH"; printf "[%s]" "$@"; exit 7'
    python = program(tmp_path / "my python", text)
    process = subprocess.Popen(
        [SCRIPT, "worker.py", "--name=a b", ""],
        env={"RAYSERVE_MXNET_PYTHON": str(python), "PYTHONPATH": "/somewhere"},
        stdout=subprocess.PIPE,
        text=True,
    )
    output, _ = process.communicate(timeout=30)
    # The same process: Ray sends its signals to the one that it has started.
    assert output == f"{process.pid} /somewhere\n[worker.py][--name=a b][]"
    assert process.returncode == 7


def test_without_the_variable_it_is_the_environment_beside_its_own(tmp_path: Path) -> None:
    python = program(tmp_path / ".venv-mxnet/bin/python", "")
    assert find_python({}, tmp_path / ".venv") == python
    assert find_python({"RAYSERVE_MXNET_PYTHON": ""}, tmp_path / ".venv") == python


def test_a_missing_environment_says_what_was_looked_for_and_what_to_do(tmp_path: Path) -> None:
    expected = rf"`{tmp_path}/.venv-mxnet/bin/python`.*`make \.venv-mxnet/\.installed` makes it"
    with pytest.raises(ConfigurationError, match=expected):
        find_python({}, tmp_path / ".venv")


@pytest.mark.parametrize("kind", ["missing", "a directory", "no program"])
def test_a_variable_that_names_no_program_is_an_error(tmp_path: Path, kind: str) -> None:
    named = tmp_path / "python"
    if kind == "a directory":
        named.mkdir()
    elif kind == "no program":
        named.write_text("")
    ended = run(RAYSERVE_MXNET_PYTHON=str(named))
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("rayserve-mxnet-python: MXNet's environment is missing")
    assert f"`{named}`, which is not a program - at `RAYSERVE_MXNET_PYTHON`" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_outside_its_environment_mxnet_says_how_to_start_a_replica_there() -> None:
    with pytest.raises(MissingDependency, match="py_executable: rayserve-mxnet-python"):
        import_mxnet()
