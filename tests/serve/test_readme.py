"""Every block of the README does what it shows."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deployments.tensorflow.backend import TensorFlowSettings
from rayserve_app.settings.model import parse_settings
from tests.serve.conftest import ROOT, Server

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def blocks(kind: str) -> list[str]:
    return [text for name, text in BLOCKS if name == kind]


def for_server(server: Server, block: str) -> str:
    """Return a block as it is for a server on another port."""
    port = str(server.config["http_options"]["port"])
    return block.replace("http://127.0.0.1:8000", server.url).replace("token-8000", f"token-{port}")


def run(server: Server, command: list[str]) -> str:
    """Run a command in the repository's root, as a user beside the server does."""
    environment = {k: v for k, v in server.environment.items() if not k.startswith("RAY_SERVE_")}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def steady(text: str) -> str:
    """Return an answer without what depends on the requests before it."""
    return re.sub(r'"query_id":\d+', '"query_id":0', text).strip()


@pytest.mark.serve
@pytest.mark.skipif(shutil.which("curl") is None, reason="these blocks call curl: not installed")
@pytest.mark.parametrize("block", blocks("console"))
def test_commands_print_what_is_shown(server: Server, block: str) -> None:
    commands: list[str] = []
    expected = ""
    for line in for_server(server, block).splitlines():
        if line.startswith("$ "):
            commands.append(line[2:])
            if "curl" in line:
                commands.append("echo")
        else:
            expected += line + "\n"
    assert steady(run(server, ["bash", "-c", "\n".join(commands)])) == expected.strip()


@pytest.mark.serve
@pytest.mark.parametrize(
    ("block", "expected"), list(zip(blocks("python"), blocks("text"), strict=True))
)
def test_scripts_print_what_is_shown(
    server: Server, tmp_path: Path, block: str, expected: str
) -> None:
    script = tmp_path / "script.py"
    script.write_text(for_server(server, block))
    assert run(server, [sys.executable, str(script)]).strip() == expected.strip()


@pytest.mark.parametrize("block", blocks("yaml"))
def test_configurations_are_valid(block: str) -> None:
    for application in yaml.safe_load(block)["applications"]:
        parse_settings(TensorFlowSettings, application["args"])


def test_make_has_the_commands() -> None:
    targets = set(re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = {line.split()[1] for block in blocks("sh") for line in block.splitlines()}
    assert {"serve", "test", "lint", "bench"} == shown
    assert shown <= targets


def test_files_that_are_named_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert missing == []
