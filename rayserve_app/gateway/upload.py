"""The body of a request on its way from a client to a replica."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import Receive

from rayserve_app.errors import BodyTimeout, RequestTooLarge
from rayserve_app.types import Buffer
from rayserve_app.web.messages import BodyBudget

MAX_KEPT_BYTES: Final = 1_000_000
"""Of a body, to be sent again if its replica is lost."""


class ClientLeft(Exception):
    """There is nobody to answer."""


class Upload:
    """The body of a request on its way; a small one can be sent once more."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._kept: list[Buffer] | None = []
        self._budget: BodyBudget | None = None
        self._held = 0
        self.size = 0
        """Bytes that have come."""
        self.is_whole = False
        """Whether its end has come."""
        self.whole_at = 0.0
        """And when, by the loop's clock."""

    async def next(self) -> Buffer:
        """Return the next piece.

        Raises:
            ClientLeft: it will not come.
        """
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        piece: Buffer = message.get("body", b"")
        if not message.get("more_body", False):
            self.is_whole = True
            self.whole_at = asyncio.get_running_loop().time()
        self.size += len(piece)
        if self._kept is not None:
            self._kept.append(piece)
        return piece

    async def read(self, budget: BodyBudget, *, max_bytes: int, timeout_s: float) -> None:
        """Let all of it come; `give_back` returns what it holds of the budget.

        Raises:
            ClientLeft: it will not come.
            RequestTooLarge, BodyTimeout, Overloaded: it is given up.
        """
        self._budget = budget
        self._hold(self.size)
        while not self.is_whole:
            self._hold(len(await self.next_within(timeout_s)))
            if self.size > max_bytes:
                raise RequestTooLarge(
                    "The body is too large", expected=f"at most {max_bytes} bytes", got="more"
                )

    async def next_within(self, timeout_s: float) -> Buffer:
        """Return the next piece.

        Raises:
            ClientLeft: it will not come.
            BodyTimeout: it has not come in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self.next()
        except TimeoutError as exc:
            raise BodyTimeout(
                "The body came too slowly", expected=f"no pause over {timeout_s:g} s"
            ) from exc

    def give_back(self) -> None:
        """Return what `read` took of the budget."""
        if self._budget is not None:
            self._budget.give_back(self._held)

    def _hold(self, count: int) -> None:
        if self._budget is not None:
            self._budget.take(count)
            self._held += count

    async def wait_for_disconnect(self) -> None:
        """Return when the client has left; call it after the body's end."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    @property
    def can_restart(self) -> bool:
        """Whether all that has come can be sent again."""
        return self._kept is not None

    def start(self) -> Buffer:
        """Return all that has come, which is to be sent at first, or once more."""
        assert self._kept is not None
        return self._kept[0] if len(self._kept) == 1 else b"".join(self._kept)

    def forget_if_large(self) -> None:
        """Keep no more of what has been sent if it is too much."""
        if self.size > MAX_KEPT_BYTES:
            self._kept = None
