"""What the pages show is what happens, and what they name is there."""

from __future__ import annotations

import os
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest

from rayserve_app.cli import SUBCOMMANDS
from rayserve_app.operations.checks import check_files
from tests import settings_page
from tests.pages import BLOCKS, PAGES, ROOT, Block, prose
from tests.serve.conftest import Server
from tests.test_structure import ROOMS

SCRIPTS = [
    (block, output)
    for block, output in pairwise(BLOCKS)
    if block.language == "python" and block.file_name is None
]
NOT_RUN = {
    "make": "it would be these tests, or take minutes; its targets are looked for",
    "docker": "needs its daemon; what the recipe names is looked for in tests/operations",
    "kubectl": "needs a cluster; the manifest is checked in tests/operations",
}


def of(*languages: str) -> Iterable[object]:
    """Return the blocks of these languages as parameters of a test."""
    return [
        pytest.param(block, id=f"{block.page}-{number}")
        for number, block in enumerate(BLOCKS)
        if block.language in languages
    ]


def for_server(server: Server, text: str) -> str:
    """Return a block as it is for a server on another port."""
    port = str(server.config["http_options"]["port"])
    return text.replace("http://127.0.0.1:8000", server.url).replace("token-8000", f"token-{port}")


def run(command: list[str], environment: dict[str, str]) -> str:
    """Run a command in the repository's root, as a user in the project's environment does."""
    own = {k: v for k, v in environment.items() if not k.startswith("RAY_SERVE_")}
    own["PATH"] = f"{Path(sys.executable).parent}:{own['PATH']}"
    done = subprocess.run(
        command, cwd=ROOT, env=own, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def steady(text: str) -> str:
    """Return an answer without what depends on the requests before it."""
    return re.sub(r'"query_id":\d+', '"query_id":0', text).strip()


def test_blocks_are_of_languages_that_are_tested() -> None:
    assert {block.language for block in BLOCKS} == {"console", "python", "text", "yaml", "sh"}
    assert {output.language for _, output in SCRIPTS} == {"text"}


@pytest.mark.serve
@pytest.mark.skipif(shutil.which("curl") is None, reason="these blocks call curl: not installed")
@pytest.mark.parametrize("block", of("console"))
def test_commands_print_what_is_shown(server: Server, block: Block) -> None:
    commands: list[str] = []
    expected = ""
    for line in for_server(server, block.text).splitlines():
        if line.startswith("$ "):
            commands.append(line[2:])
            if "curl" in line:
                commands.append("echo")
        else:
            expected += line + "\n"
    printed = run(["bash", "-c", "\n".join(commands)], server.environment)
    assert steady(printed) == expected.strip()


@pytest.mark.serve
@pytest.mark.parametrize(("block", "output"), SCRIPTS)
def test_scripts_print_what_is_shown(
    server: Server, tmp_path: Path, block: Block, output: Block
) -> None:
    script = tmp_path / "script.py"
    script.write_text(for_server(server, block.text))
    # Ray would also find another instance on this machine.
    address = {"RAY_ADDRESS": server.script_environment["RAY_ADDRESS"]}
    printed = run([sys.executable, str(script)], server.environment | address)
    assert printed.strip() == output.text.strip()


@pytest.mark.parametrize("block", of("sh"))
def test_shell_commands_run(block: Block) -> None:
    for line in block.text.splitlines():
        if line.split()[0] not in NOT_RUN:
            run(["bash", "-c", line.partition(" > ")[0]], dict(os.environ))


@pytest.mark.parametrize("block", of("yaml"))
def test_configurations_are_valid(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "page.yaml"
    path.write_text(block.text)
    assert check_files([path], environment_file=None, cores=Fraction(8), gpus=None) == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    makefile = (ROOT / "Makefile").read_text()
    assert set(re.findall(r"(?:^|`)make ([\w-]+)", text, re.M)) <= set(
        re.findall(r"^([\w-]+):", makefile, re.M)
    )
    assert set(re.findall(r"(?:^|`)rayserve-app ([\w-]+)", text, re.M)) <= set(SUBCOMMANDS)
    figures = (ROOT / "rayserve_app" / "bench" / "figures").glob("*.py")
    arguments = re.findall(r'make bench ARGS="?([a-z0-9 -]*?)[`"\s]*(?:--|[`"\n])', text)
    assert {name for names in arguments for name in names.split()} <= {
        path.stem.replace("_", "-") for path in figures
    }


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", prose(page)):
        name, _, anchor = link.partition("#")
        if "://" not in link:
            target = (page.parent / name).resolve() if name else page
            assert target.is_relative_to(ROOT), link
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_modules_that_are_named_exist(page: Path) -> None:
    text = prose(page)
    folders = ("rayserve_app", "deployments", "configs", "tests", "k8s", "docs")
    paths = re.findall(rf"(?<![\w./-])(?:{'|'.join(folders)})/[\w./-]*[\w/]", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    files = {path.name for folder in folders for path in (ROOT / folder).rglob("*.*")}
    names = set(re.findall(r"`([\w-]+\.(?:cfg|env|md|py|toml|yaml))`", text))
    assert names <= files
    for name in re.findall(r"`((?:rayserve_app|deployments)\.[\w.:]+)`", text):
        pkgutil.resolve_name(name)


def test_the_settings_are_those_of_the_source() -> None:
    assert settings_page.PAGE.read_text() == settings_page.page(), (
        "`python -m tests.settings_page` writes the page anew"
    )


def test_the_design_names_every_room() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \|", (ROOT / "docs" / "design.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(ROOMS)
