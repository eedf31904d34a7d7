"""Python clients of a served model: `Client` and, for asyncio, `AsyncClient`.

What to send and what an answer means is worked out without I/O and is the same for both.
"""

from __future__ import annotations

from rayserve_app.errors import MissingDependency

try:
    from rayserve_app.client.async_client import AsyncClient
    from rayserve_app.client.client import Client
except ModuleNotFoundError as exc:
    if exc.name != "httpx":
        raise
    raise MissingDependency(
        "The client needs httpx", remedy='pip install "rayserve-app[client]"'
    ) from exc

__all__ = ["AsyncClient", "Client"]
