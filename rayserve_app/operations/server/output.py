"""What appears on the terminal: our own lines, and those of Ray and of models but progress."""

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
# TensorFlow's: "I0000 00:00:1795992131.288873 5605 port.cc:153] …", and the line before the first.
PROGRESS_OF_TENSORFLOW = re.compile(r"I\d{4} [\d:.]+\s|WARNING: All log messages before absl")
# Serve's, where it listens on loopback alone: all of `rayserve-app serve` is on this machine.
NO_OTHER_NODES = re.compile(r"WARNING .* won't accept connections from HAProxy on other nodes")
HIDDEN = (PROGRESS, PROGRESS_OF_TENSORFLOW, NO_OTHER_NODES)


def say(line: str) -> None:
    """Print one line at once; a terminal that is gone is no reason to leave Serve behind."""
    try:
        print(line, flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - as long as the process lives


class ProgressFilter:
    """Tells lines of progress, and the indented lines that go on with one, from all others."""

    def __init__(self) -> None:
        self._hidden_sources: set[str] = set()

    def hides(self, line: str) -> bool:
        """Whether this line, without colours, belongs to a progress message."""
        match = SOURCE.match(line)
        source, text = match.groups() if match else ("", line)
        if text.strip() and not text[0].isspace():
            if any(hidden.match(text) for hidden in HIDDEN):
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
