"""The `rayserve-app` command itself; what its subcommands do is tested where they live."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayserve_app.cli import SUBCOMMANDS, main


def test_prints_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out.strip().count(".") == 2


def test_help_names_every_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in SUBCOMMANDS)


def test_an_error_is_one_line_and_exit_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(tmp_path / "absent.yaml")]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("rayserve-app: ")
    assert "absent.yaml cannot be read" in output.err
    assert output.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["surf"], ["serve"]])
def test_wrong_usage_is_exit_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
