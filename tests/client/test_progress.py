"""The line that tells how far a long list is."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import pytest

from rayserve_app.client.progress import create_progress


def show(monkeypatch: pytest.MonkeyPatch, *steps: int, wanted: bool) -> bytes:
    """Return what a terminal shows of these steps of 25."""
    reader, writer = os.openpty()
    with open(writer, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        progress = create_progress(wanted, "resnet")
        for done in steps:
            progress(done, 25)
    shown = b""
    # The end of what was written before the other side closed is an error on Linux.
    with suppress(OSError):
        while part := os.read(reader, 1000):
            shown += part
    os.close(reader)
    return shown


def test_a_terminal_shows_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = show(monkeypatch, 10, 25, wanted=True)
    assert shown == b"\rresnet: 10/25\rresnet: 25/25\r\n"


def test_a_file_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    create_progress(True, "resnet")(1, 2)
    assert capsys.readouterr() == ("", "")


def test_nothing_is_told_unless_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert show(monkeypatch, 10, 25, wanted=False) == b""
