"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any, Self, TypeVar

import httpx

from rayserve_app.client.answers import Answer
from rayserve_app.client.endpoint import LIMITS, Endpoint
from rayserve_app.client.exchange import (
    Attempt,
    Flow,
    Outcome,
    Patience,
    Pause,
    check_count,
)
from rayserve_app.client.images import Image
from rayserve_app.client.parts import Part
from rayserve_app.client.prediction import Prediction
from rayserve_app.client.progress import Progress
from rayserve_app.client.results import Form

T = TypeVar("T")


class AsyncClient:
    """A served model, as a Python object for one event loop: `Client`, whose words hold, awaited.

    Files are read and arrays encoded in a thread.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        timeout_s: float = 60.0,
        retries: int = 3,
        max_items: int | None = None,
        concurrency: int = 4,
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        """Take what `Client` takes, and raise the same; `timeout_s` holds exactly."""
        self._endpoint = Endpoint(url, model, Patience.parse(timeout_s, retries))
        self._max_items = None if max_items is None else check_count("max_items", max_items)
        self._concurrency = check_count("concurrency", concurrency)
        self._owns_http = http_client is None
        self._http = http_client or httpx.AsyncClient(limits=LIMITS)

    async def predict(
        self,
        images: Image | Iterable[Image],
        *,
        form: Form | None = None,
        content_type: str | None = None,
        progress: bool | Progress = False,
    ) -> Any:
        """Return, and raise, what `Client.predict` does. After a failure, or if the caller is
        cancelled, the requests under way are cancelled."""
        prediction = Prediction(
            await self._run(self._endpoint.know()),
            images,
            form=form,
            content_type=content_type,
            progress=progress,
            max_items=self._max_items,
        )
        parts = prediction.parts()
        first = await asyncio.to_thread(next, parts)
        if first.item_count == prediction.total:
            await self._predict_part(prediction, first)
        else:
            await self._predict_all(prediction, first, parts)
        return prediction.result()

    async def describe(self) -> dict[str, Any]:
        """Return what the model says of itself now, as `Client.describe` does."""
        return await self._run(self._endpoint.describe())

    async def ready(self) -> bool:
        """Return whether predictions can be expected to succeed, as `Client.ready` does."""
        return await self._run(self._endpoint.is_ready())

    async def wait_until_ready(self, timeout_s: float = 300.0) -> None:
        """Return when the model is ready, or raise as `Client.wait_until_ready` does."""
        await self._run(self._endpoint.wait_until_ready(timeout_s))

    async def aclose(self) -> None:
        """Close the connections."""
        if self._owns_http:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _predict_part(self, prediction: Prediction, part: Part) -> None:
        prediction.accept(part, await self._run(self._endpoint.predict(prediction, part)))

    async def _predict_all(self, prediction: Prediction, first: Part, rest: Iterator[Part]) -> None:
        free = asyncio.Semaphore(self._concurrency)

        async def send(part: Part) -> None:
            await self._predict_part(prediction, part)
            free.release()

        part: Part | None = first
        try:
            async with asyncio.TaskGroup() as group:
                while part is not None:
                    await free.acquire()
                    group.create_task(send(part))
                    part = await asyncio.to_thread(next, rest, None)
        except BaseExceptionGroup as errors:
            # The others are what came of the same fault, or of stopping.
            raise errors.exceptions[0] from errors.exceptions[0].__cause__

    async def _run(self, flow: Flow[T]) -> T:
        outcome: Outcome = None
        try:
            while True:
                step = flow.send(outcome)
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    outcome = None
                else:
                    outcome = await self._send(step)
        except StopIteration as stop:
            value: T = stop.value
            return value

    async def _send(self, attempt: Attempt) -> Outcome:
        asked = attempt.request
        request = self._http.build_request(
            asked.method,
            asked.url,
            content=asked.content,
            headers=asked.headers,
            timeout=attempt.timeout,
        )
        try:
            async with asyncio.timeout(attempt.timeout_s):
                response = await self._http.send(request)
        except (httpx.RequestError, TimeoutError) as exc:
            return exc
        return Answer(response.status_code, response.headers, bytearray(response.content))
