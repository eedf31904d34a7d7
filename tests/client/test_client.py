"""Both clients as one."""

from __future__ import annotations

import inspect
import subprocess
import sys

from rayserve_app.client import AsyncClient, Client


def public(kind: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(member)
        for name, member in vars(kind).items()
        if not name.startswith("_") and callable(member)
    }


def test_both_clients_have_the_same_methods() -> None:
    blocking, awaited = public(Client), public(AsyncClient)
    awaited["close"] = awaited.pop("aclose")
    assert blocking == awaited


def run(program: str) -> str:
    """Return what a fresh interpreter writes."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def test_a_missing_httpx_says_how_to_install_it() -> None:
    told = run(
        "import sys\n"
        "sys.modules['httpx'] = None\n"
        "try:\n"
        "    import rayserve_app.client\n"
        "except Exception as exc:\n"
        "    print(type(exc).__name__, exc)\n"
    )
    sentence = 'The client needs httpx. pip install "rayserve-app[client]"'
    assert told == f"MissingDependency {sentence}\n"


def test_the_client_needs_neither_a_server_nor_a_framework() -> None:
    loaded = run("import sys, rayserve_app.client; print(*sys.modules)").split()
    assert {"ray", "torch", "tensorflow", "uvicorn", "starlette"} & set(loaded) == set()
