"""The report's picture, drawn from its JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rayserve_app.bench import plot
from rayserve_app.bench.figure import Bound, Effort, Row
from rayserve_app.bench.report import Report
from rayserve_app.cli import main
from rayserve_app.errors import ConfigurationError, MissingDependency


@pytest.fixture
def document() -> dict[str, Any]:
    at_least, at_most = Bound("at least", 0.9), Bound("at most", 60)
    rows = [
        Row("10 KB", [0.95], "x", at_least),
        Row("130 KB", [0.8, 0.97, 1.1], "x", at_least),
        Row("idle", [2.0, float("inf")], "ms", at_most),
        Row("none", [float("inf")], "MB", at_most),
        Row("without a target", [200.0], "/s"),
    ]
    report = Report({"machine": "2 cores"}, "bench", Effort(5, 3.0), [("a", row) for row in rows])
    parsed: dict[str, Any] = json.loads(report.to_json())
    return parsed


@pytest.mark.parametrize(("suffix", "format"), [("png", "PNG"), ("svg", None)])
def test_a_report_is_drawn(
    document: dict[str, Any], tmp_path: Path, suffix: str, format: str | None
) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"bench.{suffix}"
    plot.draw(document, path)
    if format is None:
        assert b"<svg" in path.read_bytes()
    else:
        with Image.open(path) as picture:
            assert picture.format == format
            assert picture.width > 1000


def test_a_report_without_targets_or_loads_is_drawn(
    document: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    document["rows"] = []
    plot.draw(document, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").exists()


def test_a_picture_of_another_kind_is_refused(document: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(ConfigurationError, match=r"in \.png, \.svg or \.pdf, got .*bench\.doc"):
        plot.draw(document, tmp_path / "bench.doc")


def test_without_matplotlib_the_command_that_installs_it_is_told(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependency, match=r'pip install "rayserve-app\[plots\]"'):
        plot.draw(document, tmp_path / "bench.png")


def test_the_command_draws_a_report_again(document: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    report.write_text(json.dumps(document))
    assert main(["plot", str(report), str(picture)]) == 0
    assert picture.exists()


@pytest.mark.parametrize("text", [None, "{", "[]", '{"rows": []}'])
def test_what_is_no_report_is_told(
    text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "bench.json"
    if text is not None:
        report.write_text(text)
    assert main(["plot", str(report), str(tmp_path / "bench.png")]) == 1
    assert "Not a report of a benchmark" in capsys.readouterr().err
