"""The report's picture, drawn from its JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rayserve_app.bench import plot
from rayserve_app.bench.load import Load
from rayserve_app.bench.report import Bound, Report, Row
from rayserve_app.bench.saturation import Saturation
from rayserve_app.cli import main
from rayserve_app.errors import ConfigurationError, MissingDependency


@pytest.fixture
def document() -> dict[str, Any]:
    timings = [f'predict;dur=50;desc="{items} items"' for items in (2, 8, 8, 8)]
    load = Load([0.05] * 400, 0, 0, 2.0, 0.2, timings, [0.001])
    unanswered = Load([], 0, 400, 2.0, 0.2)
    found = Saturation(200.0, {240.0: unanswered, 200.0: load, 100.0: load})
    rows = [
        Row("size", "10 KB", 0.95, "x", Bound("at least", 0.9)),
        Row.of_rounds("size", "130 KB", [0.8, 0.97, 1.1], "x", Bound("at least", 0.9), {}),
        Row.of_rounds("size", "none", [2.0, float("inf")], "ms", Bound("at most", 3), {}),
        Row("memory", "idle", 70.0, "MB", Bound("at most", 60)),
        Row("memory", "none", float("inf"), "MB", Bound("at most", 60)),
        Row("cnn", "saturation", 200.0, "/s", saturation=found),
        Row("batching", "200/s", 199.0, "/s", loads={"ours": [load], "stock": [load]}),
    ]
    report = Report({"machine": "2 cores"}, "bench", 5, 3.0, rows, {})
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


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (Row("a", "", 0.95, "x", Bound("at least", 0.5)), 1.9),
        (Row("a", "", 120.0, "MB", Bound("at most", 60)), 0.5),
        (Row("a", "", 30.0, "MB", Bound("at most", 60)), 2.0),
        (Row("a", "", float("inf"), "MB", Bound("at most", 60)), 0.0),
        (Row("a", "", 0.0, "ms", Bound("at most", 60)), float("inf")),
    ],
)
def test_a_bar_is_as_long_as_the_row_is_better_than_its_target(row: Row, expected: float) -> None:
    document = json.loads(Report({}, "bench", 5, 3.0, [row], {}).to_json())
    assert plot._margin(document["rows"][0]) == pytest.approx(expected)


def test_a_picture_of_another_kind_is_refused(document: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(ConfigurationError, match=r"in \.png, \.svg or \.pdf, got .*bench\.doc"):
        plot.draw(document, tmp_path / "bench.doc")


def test_without_matplotlib_the_command_that_installs_it_is_told(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependency, match=r'pip install "rayserve-app\[bench\]"'):
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
    assert "No report of a benchmark" in capsys.readouterr().err
