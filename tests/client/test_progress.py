"""The line that tells how far a long list is."""

from __future__ import annotations

import os
import sys

import pytest

from rayserve_app.client.progress import create_progress


def test_a_terminal_shows_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.openpty()
    with open(writer, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        progress = create_progress(True, "resnet")
        for done in (10, 25):
            progress(done, 25)
        shown = os.read(reader, 1000)
    os.close(reader)
    assert shown == b"\rresnet: 10/25\rresnet: 25/25\r\n"


def test_a_file_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    create_progress(True, "resnet")(1, 2)
    assert capsys.readouterr() == ("", "")


def test_nothing_is_told_unless_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.openpty()
    with open(writer, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        create_progress(False, "resnet")(1, 2)
        os.set_blocking(reader, False)
        with pytest.raises(BlockingIOError):
            os.read(reader, 10)
    os.close(reader)
