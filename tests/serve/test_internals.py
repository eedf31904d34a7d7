"""Private names of Serve, Ray and uvicorn that are not as they are known: every request is answered
and there is one warning."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.deployments.internals.test_names import MODULES, private_names
from tests.serve.conftest import Server

pytestmark = pytest.mark.serve

CONFIG: dict[str, Any] = {
    "applications": [
        {
            "name": "laboratory",
            "route_prefix": "/laboratory",
            "import_path": "deployments.closure:build",
            "args": {
                "model": {
                    "function": "tests.serve.insides:respond",
                    "input": {"type": "string"},
                    "batching": {"max_batch_size": 1, "max_concurrent_batches": 2},
                    "deadline": {"latency_ms": 40_000},
                }
            },
            "deployments": [{"name": "Model", "ray_actor_options": {"num_cpus": 0.1}}],
        },
        {
            "name": "gateway",
            "route_prefix": "/",
            "import_path": "deployments.gateway:build",
            "args": {"gateway": {"default_model": "laboratory"}},
            "deployments": [{"name": "Gateway", "ray_actor_options": {"num_cpus": 0.1}}],
        },
    ],
}

WORDS = ["WORD0", "WORD1", "WORD2"]

CALLBACKS = {"on_body", "on_headers_complete"}
"""httptools' names, not uvicorn's."""

OVERRIDDEN = {"receive", "run_asgi", "send"}
"""Of uvicorn's methods, which `super()` finds past all that hides attributes; they are renamed."""

OF_OTHERS = {"server_state", "loaded_app"}
"""Arguments and attributes that uvicorn's server and configuration use as well."""

ELSEWHERE = {"applications", "versions"}
"""Modules that no replica uses, or that name nothing."""


def hidden() -> Iterator[str]:
    for module in MODULES:
        for name in private_names(module) if module not in ELSEWHERE else ():
            is_argument = name.endswith("=")
            if module != "connection" or not (is_argument or name in CALLBACKS | OVERRIDDEN):
                yield f"hide {module} {name}"


def renamed() -> Iterator[str]:
    names = {name.rstrip("=") for name in private_names("connection") if "." not in name}
    for name in names - CALLBACKS - OF_OTHERS:
        yield f"rename connection {name}"


def changed() -> Iterator[str]:
    for name in private_names("accounts"):
        if name.startswith("_") and not name.endswith("=") and name != "_app":
            if name != "_route_prefix":  # of an application without one
                yield f"change accounts {name} None"
            yield f"change accounts {name} dict"
    for name in ("HEADER_RE", "STATUS_LINE"):
        yield f"change connection uvicorn.protocols.http.httptools_impl.{name} None"
    yield "change connection uvicorn.config.HTTP_PROTOCOLS proxy"


UPGRADES = [
    f"upgrade {module} {of}" for module in ("x", "served_models") for of in ("ray", "uvicorn")
]


@pytest.fixture(scope="module", params=["disabled", "token"])
def laboratory(request: pytest.FixtureRequest) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="rs", ignore_cleanup_errors=True) as folder:
        Path(folder, "serve.env").write_text(f"RAY_AUTH_MODE={request.param}\n")
        running = Server(CONFIG, Path(folder))
        try:
            running.wait_until_ready()
            yield running
        finally:
            running.stop()


def ask(url: str, word: str) -> Any:
    answer = httpx.post(f"{url}/predict", json={"input": word}, timeout=60)
    assert answer.status_code == 200
    return answer.json()["output"]


def test_a_model_and_its_gateway_answer_whatever_ray_asks_of_its_processes(
    laboratory: Server,
) -> None:
    for url in (f"{laboratory.url}/laboratory", laboratory.url):
        assert ask(url, "word") == "WORD"


@pytest.mark.parametrize("module", ["accounts", "served_models"])
def test_where_all_is_as_known_there_is_no_warning(laboratory: Server, module: str) -> None:
    told = ask(f"{laboratory.url}/laboratory", f"leave {module}")
    assert (told["answers"], told["warnings"]) == (WORDS, [])


def test_other_versions_take_serves_own_way(laboratory: Server) -> None:
    check(laboratory, UPGRADES)


@pytest.mark.parametrize("laboratory", ["token"], indirect=True)
def test_every_request_is_answered_with_one_warning_where_a_name_is_not(
    laboratory: Server,
) -> None:
    """In one test, for each name takes a tenth of a second."""
    check(laboratory, [*hidden(), *renamed(), *changed()])


def check(laboratory: Server, trials: Iterable[str]) -> None:
    wrong: list[str] = []
    for words in trials:
        told = ask(f"{laboratory.url}/laboratory", words)
        if told is None or told["answers"] != WORDS or len(told["warnings"]) != 1:
            wrong.append(f"{words}: {told}")
    assert not wrong, "\n".join(wrong)
