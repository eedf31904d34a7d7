"""One real Serve instance with HAProxy for all tests of this folder, on free ports."""

from __future__ import annotations

import copy
import os
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.pages import ROOT, shown_file

CLOSURES: list[dict[str, Any]] = [
    {
        "name": "faulty",
        "route_prefix": "/faulty",
        "import_path": "deployments.closure:build",
        "args": {
            "model": {
                "function": "tests.serve.closures:faulty",
                "input": {"type": "string"},
                "deadline": {"latency_ms": 1500, "default_output": "-1.0"},
            }
        },
        "deployments": [{"name": "Model", "ray_actor_options": {"num_cpus": 0.1}}],
    },
    {
        "name": "colors",
        "route_prefix": "/colors",
        "import_path": "deployments.closure:build",
        "args": {
            "model": {
                "function": "tests.serve.closures:mean_colors",
                "input": {"type": "image"},
                "limits": {
                    "max_body_mb": 2,
                    "max_pixels": 4_000_000,
                    "body_timeout_s": 2,
                    "min_body_rate_kb_s": 1,
                },
            }
        },
        "deployments": [{"name": "Model", "ray_actor_options": {"num_cpus": 0.1}}],
    },
    {
        "name": "counting",
        "route_prefix": "/counting",
        "import_path": "deployments.closure:build",
        "args": {
            "model": {
                "function": "tests.serve.closures:batch_sizes",
                "input": {"type": "string"},
                "batching": {"max_batch_size": 2, "batch_wait_timeout_s": 5.0},
                "deadline": {"latency_ms": 20_000},
            }
        },
        "deployments": [{"name": "Model", "ray_actor_options": {"num_cpus": 0.1}}],
    },
    {
        "name": "slow",
        "route_prefix": "/slow",
        "import_path": "deployments.closure:build",
        "args": {
            "model": {
                "function": "tests.serve.closures:unhurried",
                "input": {"type": "string"},
                "batching": {"max_concurrent_batches": 4},
                "deadline": {"latency_ms": 20_000},
            }
        },
        "deployments": [{"name": "Model", "ray_actor_options": {"num_cpus": 0.1}}],
    },
    {
        "name": "frontend",
        "route_prefix": "/frontend",
        "import_path": "deployments.closure:build",
        "args": {
            "model": {
                "function": "tests.serve.closures:mean_colors",
                "input": {"type": "image"},
                "protocols": ["cluster_serving", "sagemaker"],
            }
        },
        "deployments": [
            {"name": "Model", "num_replicas": 2, "ray_actor_options": {"num_cpus": 0.05}}
        ],
    },
    {
        "name": "tfs",
        "route_prefix": "/tfs",
        "import_path": "deployments.gateway:build",
        "args": {"gateway": {"protocols": ["tensorflow_serving"]}},
        "deployments": [{"name": "Gateway", "ray_actor_options": {"num_cpus": 0.05}}],
    },
    {
        "name": "caller",
        "route_prefix": None,
        "import_path": "tests.serve.closures:build_caller",
        "args": {},
        "deployments": [{"name": "Caller", "ray_actor_options": {"num_cpus": 0.1}}],
    },
]


FRAMEWORKS: list[dict[str, Any]] = [
    {
        "name": "doubling",
        "route_prefix": "/doubling",
        "import_path": "deployments.sagemaker:build",
        "args": {"model": {"path": "tests/deployments/packages/doubling"}},
        "deployments": [{"name": "Model", "ray_actor_options": {"num_cpus": 0.05}}],
    },
    *(
        {
            "name": f"humanize-{version.replace('.', '-')}",
            "route_prefix": f"/humanize-{version.replace('.', '-')}",
            "import_path": "deployments.closure:build",
            "args": {
                "model": {
                    "function": "tests.serve.closures:humanize_version",
                    "packages": [f"humanize=={version}"],
                    "input": {"type": "string"},
                }
            },
            "deployments": [{"name": "Model", "ray_actor_options": {"num_cpus": 0.05}}],
        }
        for version in ("4.9.0", "4.11.0")
    ),
]


def free_port() -> int:
    """Return a port that nobody has, below those that the system gives to clients: until the server
    takes it, one of them could."""
    while True:
        port = random.randrange(20_000, 29_000)
        with socket.socket() as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
            return port


class Server:
    """A running `rayserve-app serve`."""

    def __init__(self, config: dict[str, Any], folder: Path) -> None:
        self.folder = folder
        self.config = copy.deepcopy(config)
        self.config["http_options"] = {"host": "127.0.0.1", "port": free_port()}
        self.url = f"http://127.0.0.1:{self.config['http_options']['port']}"
        self.environment = {
            **os.environ,
            "HOME": str(folder),
            "RAY_TMPDIR": str(folder),
            "TMPDIR": str(folder),
            "PYTHONPATH": f"{ROOT}:{folder}",
            "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        }
        path = folder / "app.yaml"
        path.write_text(yaml.safe_dump(self.config))
        self.log = folder / "serve.log"
        command = [str(Path(sys.executable).with_name("rayserve-app")), "serve", str(path)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_ready(self, timeout_s: float = 240) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.process.poll() is None:
            text = self.log.read_text()
            if "Ready after" in text:
                assert "failed" not in text, text
                return
            time.sleep(0.2)
        pytest.fail(f"not ready:\n{self.log.read_text()}")

    @property
    def dashboard(self) -> str:
        found = re.search(r"^Ray: +(http://\S+)$", self.log.read_text(), re.MULTILINE)
        assert found is not None
        return found.group(1)

    @property
    def script_environment(self) -> dict[str, str]:
        """What a user beside the server has: no variables of Serve's, but those that it told."""
        told = re.search(r"^Scripts:  export ((?:.*\\\n)*.*)$", self.log.read_text(), re.MULTILINE)
        assert told is not None
        variables = dict(word.split("=", 1) for word in shlex.split(told[1].replace("\\\n", "")))
        own = {k: v for k, v in self.environment.items() if not k.startswith("RAY_SERVE_")}
        return own | variables

    @property
    def headers(self) -> dict[str, str]:
        """What requests to the dashboard carry."""
        token = Path(self.script_environment["RAY_AUTH_TOKEN_PATH"]).read_text()
        return {"authorization": f"Bearer {token}"}

    def applications(self) -> dict[str, Any]:
        address = f"{self.dashboard}/api/serve/applications/"
        answer = httpx.get(address, headers=self.headers, timeout=30)
        applications: dict[str, Any] = answer.json()["applications"]
        return applications

    def apply(self, config: dict[str, Any]) -> None:
        """Do what `serve deploy` does."""
        address = f"{self.dashboard}/api/serve/applications/"
        httpx.put(address, json=config, headers=self.headers, timeout=60).raise_for_status()

    def application(self, name: str) -> dict[str, Any]:
        """Return the declaration of an application; changes to it count at the next `apply`."""
        application: dict[str, Any]
        (application,) = (a for a in self.config["applications"] if a["name"] == name)
        return application

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def create_config(folder: Path) -> dict[str, Any]:
    """Return `configs/app.yaml` with the models of the tests and the README's beside its own.

    Args:
        folder: where `colors` reads asynchronous invocations, in `in`, and writes, in `out`; gets
            the README's module.
    """
    config: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "app.yaml").read_text())
    config["applications"] += yaml.safe_load(shown_file("my.yaml"))["applications"]
    (folder / "my_models.py").write_text(shown_file("my_models.py"))
    for application in config["applications"]:
        for deployment in application["deployments"]:
            deployment["ray_actor_options"]["num_cpus"] = 0.1
    config["applications"] += copy.deepcopy(CLOSURES + FRAMEWORKS)
    args = {application["name"]: application["args"] for application in config["applications"]}
    args["gateway"]["gateway"]["default_model"] = "colors"
    places = {"async_input": [f"{folder}/in"], "async_output": f"{folder}/out"}
    args["colors"]["model"]["protocol_settings"] = {"sagemaker": places}
    return config


@pytest.fixture(scope="package")
def server() -> Iterator[Server]:
    # Not pytest's own folder: Ray's sockets lie below it, and their paths end at 107 bytes.
    with tempfile.TemporaryDirectory(prefix="rs", ignore_cleanup_errors=True) as folder:
        Path(folder, "in").mkdir()
        Path(folder, "out").mkdir()
        running = Server(create_config(Path(folder)), Path(folder))
        try:
            running.wait_until_ready()
            yield running
        finally:
            running.stop()


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client
