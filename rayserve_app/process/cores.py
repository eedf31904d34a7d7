"""How many cores a process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

QUOTA_FILE = Path("/sys/fs/cgroup/cpu.max")


def available_cores(quota_file: Path = QUOTA_FILE) -> int:
    """Return the cores of this process: those of its affinity mask, and no more than the CPU time
    that its container may use (cgroup v2, cpu.max: quota and period in microseconds)."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = quota_file.read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such limit: no file, or the word `max`
        return cores
