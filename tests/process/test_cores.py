"""The cores of a process: its affinity, and its container's share of time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rayserve_app.process.cores import available_cores

ALL = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("limit", "cores"),
    [
        ("max 100000\n", ALL),
        ("100000 100000\n", 1),
        ("20000 100000\n", 1),
        ("110000 100000\n", min(2, ALL)),
        ("99999900000 100000\n", ALL),
        ("nonsense", ALL),
    ],
)
def test_a_containers_limit_counts(tmp_path: Path, limit: str, cores: int) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(limit)
    assert available_cores(file) == cores


def test_without_a_limit_it_is_the_affinity(tmp_path: Path) -> None:
    assert available_cores(tmp_path / "absent") == ALL
