"""One request and its whole answer, for what a figure checks before it measures."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

from rayserve_app.bench.load import Target

TIMEOUT_S = 30.0


class WholeAnswer(NamedTuple):
    """What came back; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def fetch(target: Target) -> WholeAnswer:
    """Send the request once, with the bytes that the load generator sends, and read its answer.

    Raises:
        TimeoutError, ConnectionError, asyncio.IncompleteReadError: there is no whole answer.
    """
    async with asyncio.timeout(TIMEOUT_S):
        reader, writer = await asyncio.open_connection(target.host, target.port)
        try:
            writer.write(target.request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.rstrip().split("\r\n")
            pairs = (line.partition(":") for line in lines)
            headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
            body = await reader.readexactly(int(headers["content-length"]))
        finally:
            writer.close()
    return WholeAnswer(int(first.split()[1]), headers, body)
