"""CPU seconds and peak memory of real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from rayserve_app.bench import usage
from rayserve_app.bench.usage import (
    ProcessUsage,
    Usage,
    UsageMeter,
    Watch,
    label,
    peak_bytes,
    reset_peak,
)

HUNDRED_MB = 100_000_000

WORKER = """
import sys, time
for line in sys.stdin:
    if line.startswith("compute"):
        end = time.process_time() + float(line.split()[1])
        while time.process_time() < end:
            pass
    elif line.startswith("allocate"):
        block = b"1" * int(line.split()[1])
        del block
    print("done", flush=True)
"""


class Worker:
    """A child process that does as it is told."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child
        self.process = psutil.Process(child.pid)
        self.do("nothing")

    def do(self, what: str) -> None:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        print(what, file=self._child.stdin, flush=True)
        assert self._child.stdout.readline() == "done\n"


@contextmanager
def worker() -> Iterator[Worker]:
    command = [sys.executable, "-c", WORKER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            yield Worker(child)
        finally:
            child.kill()


def of_label(found: Usage, name: str) -> ProcessUsage:
    (one,) = (each for each in found.processes if each.label == name)
    return one


def test_a_peak_is_remembered_until_it_is_reset() -> None:
    with worker() as child:
        child.do(f"allocate {HUNDRED_MB}")
        assert peak_bytes(child.process) > HUNDRED_MB
        if not reset_peak(child.process):
            pytest.skip("/proc/PID/clear_refs may not be written here")
        assert peak_bytes(child.process) < HUNDRED_MB


def test_a_process_that_is_gone_has_no_peak() -> None:
    with worker() as child:
        process = child.process
    assert not reset_peak(process)
    with pytest.raises(psutil.NoSuchProcess):
        peak_bytes(process)


def test_a_meter_finds_what_a_child_takes_meanwhile() -> None:
    """What it took before does not count."""
    with worker() as child:
        child.do("compute 0.3")
        child.do(f"allocate {2 * HUNDRED_MB}")
        if not reset_peak(child.process):
            pytest.skip("/proc/PID/clear_refs may not be written here")
        with UsageMeter() as meter:
            child.do("compute 0.2")
            child.do(f"allocate {HUNDRED_MB}")
        name = child.process.name()
    assert meter.usage is not None
    assert meter.usage.seconds > 0.2
    found = of_label(meter.usage, name)
    assert 0.2 <= found.cpu_seconds < 0.3
    assert 0.9 * HUNDRED_MB < found.above_start_mb * 1e6 < 1.5 * HUNDRED_MB
    assert of_label(meter.usage, "load generator").peak_mb > 10


def test_the_largest_look_is_the_peak_where_the_kernels_may_not_be_reset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(usage, "reset_peak", lambda _: False)
    with worker() as child:
        child.do(f"allocate {HUNDRED_MB}")
        watch = Watch(child.process.pid)
        watch.look()
    assert of_label(watch.usage(), "load generator").peak_mb * 1e6 < HUNDRED_MB


def test_a_process_that_starts_meanwhile_counts_as_a_whole() -> None:
    with worker() as first:
        watch = Watch(os.getpid())
        with worker() as second:
            second.do("compute 0.1")
            watch.look()
        watch.look()
        label_of_both = first.process.name()
    found = of_label(watch.usage(), label_of_both)
    assert found.processes == 2
    assert found.cpu_seconds >= 0.1
    assert 5 < found.above_start_mb < found.peak_mb


def test_what_is_outside_of_the_watched_processes_is_foreign() -> None:
    with worker() as watched, worker() as other:
        watch = Watch(watched.process.pid)
        watched.do("compute 1")
        watch.look()
        own = watch.usage().foreign_cpu_seconds
        other.do("compute 1")
        watch.look()
        # Whatever else the machine does meanwhile, and the clocks' ticks.
        assert watch.usage().foreign_cpu_seconds > own + 0.9


def test_what_has_ended_meanwhile_is_not_foreign() -> None:
    code = "import time\nwhile time.process_time() < 1: pass"
    outer = Watch(os.getpid())
    with worker() as sibling:
        inner = Watch(sibling.process.pid)
        subprocess.run([sys.executable, "-c", code], check=True)
        for watch in (outer, inner):
            watch.look()
    whole, part = outer.usage().foreign_cpu_seconds, inner.usage().foreign_cpu_seconds
    assert part > whole + 0.9


def test_a_meter_whose_process_was_ended_found_nothing() -> None:
    with UsageMeter() as meter:
        (child,) = (
            each
            for each in psutil.Process().children()
            if "rayserve_app.bench.usage" in each.cmdline()
        )
        child.kill()
        time.sleep(0.05)
    assert meter.usage is None


def test_documents_are_read_again() -> None:
    found = Usage(3.5, [ProcessUsage("raylet", 1, 0.5, 60.0, 1.5)], 0.25)
    assert Usage.from_document(found.to_document()) == found


@pytest.mark.parametrize(
    ("command_line", "expected"),
    [
        (["ray::ServeReplica:image-example:Model"], "replica image-example"),
        (["ray::ServeController.listen_for_change"], "Serve controller"),
        (["ray::HAProxyManager"], "Serve proxies"),
        (["ray::DashboardAgent"], "Ray's agents"),
        (["ray::IDLE"], "Ray worker"),
        (["/opt/v/bin/haproxy", "-f", "/tmp/x/haproxy.cfg"], "HAProxy"),
        (["/v/bin/python", "/v/bin/rayserve-haproxy", "-db"], "HAProxy's launchers"),
        (["/v/ray/core/src/ray/gcs/gcs_server", "--port=1"], "GCS"),
        (["/v/ray/core/src/ray/raylet/raylet", "--x=/gcs_server"], "raylet"),
        (["/v/bin/python", "/v/ray/dashboard/dashboard.py", "--host=h"], "dashboard"),
        (['ray-dashboard-JobHead-0 (/v/bin/python -c "from'], "dashboard"),
        (["/v/bin/python", "-c", "from multiprocessing.forkserver import main"], "dashboard"),
        (["/v/bin/python", "-m", "ray.serve.scripts", "run", "--address"], "serve run"),
        (["/v/bin/python", "-u", "/v/ray/_private/log_monitor.py"], "Ray's agents"),
        (["/v/bin/python", "/v/bin/rayserve-app", "serve", "app.yaml"], "supervisor"),
        (["/v/bin/python", "-m", "rayserve_app.bench.echo"], "echo server"),
        (["/w/.venv-peers/litserve/bin/python", "x.py"], "peer litserve"),
        (
            ["/w/.venv-peers/litserve/bin/python", "-c", "from multiprocessing.spawn import x"],
            "peer litserve",
        ),
        (["/bin/sleep", "1"], ""),
        ([], ""),
    ],
)
def test_processes_are_told_apart_by_their_command_lines(
    command_line: list[str], expected: str
) -> None:
    assert label(command_line) == expected


def test_all_but_the_largest_are_one_sum() -> None:
    several = [ProcessUsage(name, 2, 1.0, 50.0, 5.0) for name in "abcd"]
    assert Usage(1.0, several, 0.0).largest(2) == [
        *several[:2],
        ProcessUsage("others", 4, 2.0, 100.0, 10.0),
    ]
    assert Usage(1.0, several, 0.0).largest(4) == several
