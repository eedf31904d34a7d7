"""Every test that connects runs with both clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rayserve_app.client import Client
from tests.client import AnyClient, BlockingAsyncClient, Connect


@pytest.fixture(params=[Client, BlockingAsyncClient], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    clients: list[AnyClient] = []

    def create(*args: object, **options: object) -> AnyClient:
        client: AnyClient = request.param(*args, **options)
        clients.append(client)
        return client

    yield create
    for client in clients:
        client.close()
