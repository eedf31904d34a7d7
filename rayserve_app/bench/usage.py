"""CPU seconds and peak memory of every process of a run, while a figure is measured, and what the
machine computed for others meanwhile.

A process of its own looks once a second, so that looking stalls no request. The peak of resident
memory is the kernel's own: `VmHWM` of /proc/PID/status, reset when the figure begins (proc(5),
clear_refs), else, where that is not allowed, the largest of the looks.
"""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Final, Self

import psutil

PERIOD_S: Final = 1.0
RESET_PEAK: Final = "5"
END_TIMEOUT_S: Final = 10.0

LABELS: Final = (
    (re.compile(r"ray::ServeReplica:([^:]+):"), r"replica \1"),
    (re.compile(r"ray::ServeController"), "Serve controller"),
    (re.compile(r"ray::(ProxyActor|HAProxyManager)"), "Serve proxies"),
    (re.compile(r"ray::(DashboardAgent|RuntimeEnvAgent)"), "Ray's agents"),
    (re.compile(r"ray::"), "Ray worker"),
    (re.compile(r"\S*haproxy\S* "), "HAProxy"),
    (re.compile(r"\S* \S*rayserve-haproxy "), "HAProxy's launchers"),
    (re.compile(r"\S*gcs_server"), "GCS"),
    (re.compile(r"\S*raylet/raylet"), "raylet"),
    (re.compile(r".*/ray/_private/log_monitor\.py"), "Ray's agents"),
    (re.compile(r".*/ray/autoscaler/"), "Ray's autoscaler"),
    (re.compile(r".*\.venv-peers/([^/]+)/"), r"peer \1"),
    (re.compile(r"ray-dashboard|.*/ray/dashboard/|.* -c from multiprocessing\."), "dashboard"),
    (re.compile(r".* -m ray\.serve\.scripts run "), "serve run"),
    (re.compile(r".*\brayserve-app serve "), "supervisor"),
    (re.compile(r".*-m rayserve_app\.bench\.echo"), "echo server"),
    (re.compile(r".*-m rayserve_app\.bench\.framework_loop"), "framework loop"),
    (re.compile(r".*-m rayserve_app\.bench\.usage"), "this measurement"),
)
"""What a process is, by its command line or the title that Ray gives it; the first that fits."""


@dataclass(frozen=True)
class ProcessUsage:
    """What all processes of one label took."""

    label: str
    processes: int
    cpu_seconds: float
    """Of one that ended, until the last look."""
    peak_mb: float
    """Resident; the sum of each one's own peak, so that what they share counts for each."""
    above_start_mb: float
    """Of that, what is above the memory when the figure began; all of it if it started later."""

    @property
    def title(self) -> str:
        """The label, with the number of processes if there are several."""
        return self.label if self.processes == 1 else f"{self.label} ({self.processes})"


@dataclass(frozen=True)
class Usage:
    """What a figure took of the machine."""

    seconds: float
    processes: Sequence[ProcessUsage]
    """Those that took most CPU first."""
    foreign_cpu_seconds: float
    """What the machine computed besides for others than these: for whoever else is on it."""

    def largest(self, count: int) -> list[ProcessUsage]:
        """Return the first, and the sum of the rest as the last."""
        first, rest = [*self.processes[:count]], self.processes[count:]
        if rest:
            first.append(_sum("others", rest))
        return first

    def to_document(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Usage:
        """Return what `to_document` has rendered."""
        processes = [ProcessUsage(**each) for each in document["processes"]]
        return cls(document["seconds"], processes, document["foreign_cpu_seconds"])


class UsageMeter:
    """A context manager: measures this process and all below it from entry to exit."""

    def __init__(self) -> None:
        self.usage: Usage | None = None
        """What was found, after exit; None if the measuring process was ended before."""
        self._child: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", __name__, str(os.getpid())]
        # In a session of its own, for Ctrl-C is the parent's: the end of its input ends the child.
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._child.stdout is not None
        self._child.stdout.readline()  # it has looked
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._child is not None
        try:
            told, _ = self._child.communicate(timeout=END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            told, _ = self._child.communicate()
        if told:
            self.usage = Usage.from_document(json.loads(told))


class Watched:
    """One process, as far as it has been seen."""

    def __init__(self, process: psutil.Process, *, is_new: bool) -> None:
        self.label = ""
        self.cpu_seconds = 0.0
        self.peak_bytes = 0
        self._process = process
        self._has_peak = is_new or reset_peak(process)
        self._cpu_before = 0.0 if is_new else sum(process.cpu_times()[:2])
        self.start_bytes = 0 if is_new else int(process.memory_info().rss)

    def look(self) -> None:
        """Bring the figures up to date.

        Raises:
            psutil.Error: it has ended.
        """
        process = self._process
        with process.oneshot():
            # Ray gives its workers a title only once they are somebody's.
            self.label = label(process.cmdline()) or self.label or process.name()
            self.cpu_seconds = sum(process.cpu_times()[:2]) - self._cpu_before
            resident: int = process.memory_info().rss
        peak = peak_bytes(process) if self._has_peak else resident
        self.peak_bytes = max(self.peak_bytes, peak)


class Watch:
    """A process and all below it, those too that end meanwhile."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._started_at = perf_counter()
        self._watched: dict[psutil.Process, Watched] = {}
        self._look(is_new=False)
        self._foreign_before = self._foreign_now

    def look(self) -> None:
        """Bring the figures up to date; what has come since is new."""
        self._look(is_new=True)

    def usage(self) -> Usage:
        """Return what all took until the last look."""
        by_label: dict[str, list[ProcessUsage]] = {}
        for process, seen in self._watched.items():
            name = "load generator" if process == self._root else seen.label
            peak_mb, start_mb = seen.peak_bytes / 1e6, seen.start_bytes / 1e6
            one = ProcessUsage(name, 1, seen.cpu_seconds, peak_mb, max(0.0, peak_mb - start_mb))
            by_label.setdefault(name, []).append(one)
        sums = [_sum(name, several) for name, several in by_label.items()]
        sums.sort(key=lambda each: each.cpu_seconds, reverse=True)
        # Less than 0, by the ticks of the kernel's clocks, where there was nobody else.
        foreign = max(0.0, self._foreign_now - self._foreign_before)
        return Usage(round(perf_counter() - self._started_at, 3), sums, round(foreign, 3))

    def _look(self, *, is_new: bool) -> None:
        own = 0.0
        for process in [self._root, *self._root.children(recursive=True)]:
            try:
                own += sum(process.cpu_times()[:4])  # with those of its children that have ended
                if process not in self._watched:
                    self._watched[process] = Watched(process, is_new=is_new)
                self._watched[process].look()
            except psutil.Error:
                continue
        self._foreign_now = machine_cpu_seconds() - own


def machine_cpu_seconds() -> float:
    """Return what the machine has computed since it started. Interrupts count, for Linux charges
    the process with them that they interrupt, as those of the loopback do its two ends."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def label(command_line: Sequence[str]) -> str:
    """Return what a process is; empty if it is none of those that the bench knows."""
    text = " ".join(command_line) + " "
    for pattern, replacement in LABELS:
        if match := pattern.match(text):
            return match.expand(replacement)
    return ""


def reset_peak(process: psutil.Process) -> bool:
    """Have the kernel forget a process's peak of memory; return whether it is allowed."""
    try:
        Path(f"/proc/{process.pid}/clear_refs").write_text(RESET_PEAK)
    except OSError:
        return False
    return True


def peak_bytes(process: psutil.Process) -> int:
    """Return the peak of a process's resident memory since it began, or `reset_peak`.

    Raises:
        psutil.NoSuchProcess: it has ended.
    """
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError as exc:
        raise psutil.NoSuchProcess(process.pid) from exc
    match = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    if match is None:  # a zombie has none
        raise psutil.NoSuchProcess(process.pid)
    return int(match[1]) << 10


def _sum(name: str, several: Sequence[ProcessUsage]) -> ProcessUsage:
    return ProcessUsage(
        name,
        sum(each.processes for each in several),
        round(sum(each.cpu_seconds for each in several), 3),
        round(sum(each.peak_mb for each in several), 3),
        round(sum(each.above_start_mb for each in several), 3),
    )


def main() -> None:
    """Measure a process from the first line that is printed to the end of the input, and print
    what was found."""
    os.nice(19)
    watch = Watch(int(sys.argv[1]))
    print("looking", flush=True)
    while not select.select([sys.stdin], [], [], PERIOD_S)[0]:
        watch.look()
    watch.look()
    print(json.dumps(watch.usage().to_document()))


if __name__ == "__main__":
    main()
