"""Ends a request whose body comes too slowly, or whose client leaves.

Nothing happens until a request has taken WATCH_AFTER_S: most are answered sooner, and watching
costs a task.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Any, Final

from rayserve_app.errors import BodyTimeout, ServingError
from rayserve_app.web.messages import ClientDisconnected, Handler, Request, Response

WATCH_AFTER_S: Final = 0.05


async def watched(handler: Handler, request: Request) -> Response:
    """Run the handler until it answers, or cancel it.

    Raises:
        BodyTimeout: a pause in the body longer than `body_timeout_s`, or less than
            `min_body_rate_kb_s` on average after that time.
        ClientDisconnected: there is nobody to answer any more.
    """
    task = asyncio.current_task()
    assert task is not None
    watch = _Watch(task, request)
    timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, watch.start)
    try:
        return await handler(request)
    except asyncio.CancelledError as exc:
        if (verdict := watch.verdict) is None or exc.args != (verdict,) or task.uncancel():
            raise
    finally:
        timer.cancel()
        watch.stop()
    # Not above, where it would refer to the cancellation, and that to it.
    raise verdict


class _Watch:
    """Watches one request; `verdict` says why it was cancelled, if it was."""

    __slots__ = ("_request", "_task", "_watching", "verdict")

    def __init__(self, task: asyncio.Task[Any], request: Request) -> None:
        self.verdict: ServingError | ClientDisconnected | None = None
        self._task = task
        self._request = request
        self._watching: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._watching = asyncio.ensure_future(self._run())

    def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            # The task will refer to where it was cancelled, and that to this.
            self._watching = None

    async def _run(self) -> None:
        self.verdict = await self._body_verdict()
        if self.verdict is None:
            await self._request.disconnected()
            self.verdict = ClientDisconnected()
        self._task.cancel(self.verdict)

    async def _body_verdict(self) -> BodyTimeout | None:
        """Wait for the body; return why it is given up, if it is."""
        request, limits = self._request, self._request.limits
        while not request.body_read.is_set():
            now = perf_counter()
            left_s = limits.body_timeout_s - (now - request.progressed_at)
            if limits.min_body_rate_kb_s:
                allowed_s = request.received / (limits.min_body_rate_kb_s * 1e3)
                elapsed_s = now - request.started_at
                left_s = min(left_s, max(limits.body_timeout_s, allowed_s) - elapsed_s)
            if left_s <= 0:
                return BodyTimeout(
                    "The body came too slowly",
                    expected=f"no pause over {limits.body_timeout_s:g} s and "
                    f"{limits.min_body_rate_kb_s:g} kB/s",
                    got=f"{request.received} bytes in {now - request.started_at:.1f} s",
                )
            try:
                async with asyncio.timeout(left_s):
                    await request.body_read.wait()
            except TimeoutError:
                continue
        return None
