"""What appears on the terminal: our own lines, and Ray's without its progress messages."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections import deque
from typing import IO

ANSI_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# Ray puts the process that printed in front: "(ServeController pid=77) INFO 2026-…".
SOURCE = re.compile(r"\((\w[^()]*)\) ?(.*)")
# "2026-11-22 03:52:37,579	INFO scripts.py:489 -- …" and "INFO 2026-11-22 03:53:12,380 serve …".
PROGRESS = re.compile(r"([\d:, -]+\s)?(DEBUG|INFO|SUCC)\s")


def say(line: str) -> None:
    """Print one line at once; a terminal that is gone is no reason to leave Serve behind."""
    try:
        print(line, flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - as long as the process lives


class ProgressFilter:
    """Tells Ray's progress lines, and the indented lines that go on with one, from all others."""

    def __init__(self) -> None:
        self._hidden_sources: set[str] = set()

    def hides(self, line: str) -> bool:
        """Whether this line, without colours, belongs to a progress message."""
        match = SOURCE.match(line)
        source, text = match.groups() if match else ("", line)
        if text.strip() and not text[0].isspace():
            if PROGRESS.match(text):
                self._hidden_sources.add(source)
            else:
                self._hidden_sources.discard(source)
        return source in self._hidden_sources


class Relay(threading.Thread):
    """Shows a child's lines as they come, and keeps the last ones for when it dies."""

    def __init__(self, stream: IO[str]) -> None:
        super().__init__(daemon=True, name="relay")
        self.last_lines: deque[str] = deque(maxlen=20)
        self._stream = stream
        self._muted = False

    def mute(self) -> None:
        """Show nothing more: while everything ends, complaints about what is gone say nothing."""
        self._muted = True

    def run(self) -> None:
        """Read to the end, so that the child never blocks on a full pipe."""
        progress = ProgressFilter()
        for raw_line in self._stream:
            line = ANSI_COLOUR.sub("", raw_line.rstrip())
            self.last_lines.append(line)
            if not progress.hides(line) and not self._muted:
                say(line)
