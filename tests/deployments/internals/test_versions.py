"""For which versions the short way past Serve is taken."""

from __future__ import annotations

import logging
import re
import tomllib
from pathlib import Path

import pytest
import ray
import uvicorn
from packaging.requirements import Requirement

from deployments.internals.versions import TESTED, NotAsKnown, check_versions, warn

ROOT = Path(__file__).parents[3]


def test_these_versions_are_the_tested_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    check_versions()
    monkeypatch.setattr(uvicorn, "__version__", "99.0")
    with pytest.raises(NotAsKnown, match=rf"Ray {ray.__version__} with uvicorn 99\.0"):
        check_versions()


def test_what_is_declared_and_installed_is_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {
        requirement.name: requirement.specifier
        for requirement in map(Requirement, project["optional-dependencies"]["serve"])
    }
    for pair in TESTED:
        for name, version in zip(("ray", "uvicorn"), pair, strict=True):
            assert version in declared[name]
            assert len(list(declared[name])) == (1 if name == "ray" else 2)
    for file in ("constraints.txt", "constraints-mxnet.txt"):
        pins = dict(
            re.findall(r"^(ray|uvicorn)(?:\[.*\])?==(\S+)", (ROOT / file).read_text(), re.M)
        )
        assert (pins["ray"], pins["uvicorn"]) in TESTED


def test_one_warning_is_enough(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        warn(NotAsKnown("no such name"))
        warn(TypeError("no such argument"))
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "Requests take Serve's own way, which is slower: no such name"),
        ("INFO", "Requests take Serve's own way, which is slower: TypeError: no such argument"),
    ]
