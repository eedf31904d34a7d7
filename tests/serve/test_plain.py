"""`serve run` alone, with none of our variables: Serve's own Python proxy, without HAProxy."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import yaml
from PIL import Image

from tests.serve.conftest import ROOT, free_port

pytestmark = pytest.mark.serve


@contextlib.contextmanager
def serve_run(folder: Path) -> Iterator[str]:
    """Run `serve run` on one closure until the block ends; yields the address."""
    port = free_port()
    model = {
        "function": "tests.serve.closures:halves",
        "input": {"type": "image"},
        "output": {"codec": "npy"},
    }
    config = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [
            {
                "name": "halves",
                "route_prefix": "/halves",
                "import_path": "deployments.closure:build",
                "args": {"model": model},
                "deployments": [{"name": "Model", "ray_actor_options": {"num_cpus": 0.1}}],
            }
        ],
    }
    path, log = folder / "app.yaml", folder / "serve.log"
    path.write_text(yaml.safe_dump(config))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {
        "HOME": str(folder),
        "RAY_TMPDIR": str(folder),
        "TMPDIR": str(folder),
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "disabled",
    }
    with log.open("wb") as output:
        process = psutil.Popen(
            [str(Path(sys.executable).with_name("serve")), "run", str(path)],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    family: list[psutil.Process] = []
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 90
        while not is_ready(f"{url}/halves"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        yield url
    finally:
        family = [process, *process.children(recursive=True)] if process.is_running() else []
        process.send_signal(signal.SIGINT)
        _, left = psutil.wait_procs(family, timeout=20)
        for member in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(left, timeout=10)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def test_serve_run_answers_through_serves_own_proxy() -> None:
    """The answer takes several messages from the replica to the proxy."""
    pixels = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    # Not pytest's own folder: Ray's sockets lie below it, and their paths end at 107 bytes.
    with (
        tempfile.TemporaryDirectory(prefix="rs", ignore_cleanup_errors=True) as folder,
        serve_run(Path(folder)) as url,
    ):
        answer = httpx.post(f"{url}/halves/invocations", content=png.getvalue(), timeout=30)
        names = names_below(folder)
    assert answer.status_code == 200, answer.text
    assert len(answer.content) > 3_000_000
    array = np.load(io.BytesIO(answer.content))
    np.testing.assert_array_equal(array.reshape(512, 512, 3), pixels.astype(np.float32) * 0.5)
    assert "raylet" in names
    assert not any("haproxy" in name for name in names)


def names_below(folder: str) -> set[str]:
    """Names of the processes that were started with this folder as their home."""
    names = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("HOME") == folder:
                names.add(process.name())
    return names
