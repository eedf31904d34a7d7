"""Forwards one request to a replica, and its answer back, both as they come.

A prediction may be repeated safely: a request whose replica is lost before it answers goes once to
another one, if nothing of its body had been sent or all of it is still at hand. Where there is no
other it waits for one, as long as the model's deadline lasts.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from math import inf
from typing import Final

from starlette.types import Scope, Send

from rayserve_app.errors import ModelNotReady
from rayserve_app.gateway.connection import ReplicaLost
from rayserve_app.gateway.exchange import Exchange
from rayserve_app.gateway.replicas import Address, Connections, Directory, ServedModel
from rayserve_app.gateway.request_head import LOOPS, request_head
from rayserve_app.gateway.upload import Upload

MAX_ATTEMPTS: Final = 2
"""Requests sent; a replica that cannot be reached at all has been sent none."""

LOOK_AGAIN_S: Final = 0.25
"""While a request waits for a replica; what Serve tells ends the wait sooner."""

TAKE_BREATH_S: Final = 0.1
"""Before a replica that has just been lost is asked once more: one that dies may do so in parts."""


class Forwarder:
    """Forwards requests over connections that it keeps."""

    def __init__(
        self, connections: Connections, directory: Directory, order: Sequence[str]
    ) -> None:
        """
        Args:
            order: of the protocols that may answer; if empty, that of the model that answers.
        """
        self._directory = directory
        self._connections = connections
        self._order = ",".join(order).encode()
        self._name = secrets.token_hex(16).encode()

    def has_sent(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether a request has been forwarded here before."""
        return self._name in headers.get(LOOPS, b"")

    async def send(
        self, scope: Scope, path: str, upload: Upload, send: Send, model: ServedModel
    ) -> None:
        """Answer a request as one of the model's replicas does.

        Args:
            path: what to ask the replica for, decoded.
            upload: the body, of which the first piece has come.
        Raises:
            ModelNotReady: there is no replica, or those that were asked were lost.
            DeadlineExceeded: no answer came in time.
            AnswerCut, ClientLeft: there is no way to go on.
        """
        asked_at = asyncio.get_running_loop().time()
        request = request_head(scope, path, upload, self._order, self._name, model)
        lost: list[Address] = []
        gone: set[Address] = set()
        while True:
            # Its body may have come while a replica was lost.
            started_at = max(asked_at, upload.whole_at)
            address = await self._place(model, lost, gone, started_at + model.patience_s)
            try:
                # As long as its body comes, it has all of its deadline before it.
                late_at = started_at + request.limit_s if upload.is_whole else inf
                lease = await self._connections.take(address, late_at)
            except ReplicaLost:
                gone.add(address)
                continue
            try:
                exchange = Exchange(lease.connection, upload, send, started_at)
                return await exchange.run(request)
            except ReplicaLost as exc:
                # Others that were opened at the same time are likely to be lost as well.
                self._connections.drop_idle(address)
                lost.append(address)
                if len(lost) == MAX_ATTEMPTS or not upload.can_restart:
                    raise ModelNotReady(f"A replica of model {model.name!r} was lost") from exc
            finally:
                self._connections.give_back(lease)

    async def _place(
        self, model: ServedModel, lost: Sequence[Address], gone: set[Address], until: float
    ) -> Address:
        """Return the replica for the next attempt.

        Args:
            lost: those that were lost with an attempt: others come first.
            gone: those that could not be reached; after a while they are tried again.
            until: by the loop's clock, how long to wait for one.
        Raises:
            ModelNotReady: there is none.
        """
        may_breathe = bool(lost)
        while True:
            known = self._directory.find(model.name) or model
            there = [each for each in known.replicas if each not in gone]
            left = until - asyncio.get_running_loop().time()
            if may_breathe and left > 0 and not set(there) - set(lost):
                may_breathe = False
                await self._directory.news(min(left, TAKE_BREATH_S))
                continue
            if there:
                return self._connections.choose(there, without=lost)
            if left <= 0:
                raise ModelNotReady(f"Model {model.name!r} has no replica at the moment")
            await self._directory.news(min(left, LOOK_AGAIN_S))
            gone.clear()
