"""The client for ordinary code: it blocks, and several requests are under way in threads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from threading import Event
from time import monotonic
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
from rayserve_app.client.results import Form, Rows

T = TypeVar("T")


class Client:
    """A served model, as a Python object.

    Threads may share one. Local files are the caller's own, so they may be given by their paths:
    what they hold is sent, the paths are not.
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
        http_client: httpx.Client | None = None,
    ) -> None:
        """
        Args:
            url: the model's own, `http://localhost:8000/resnet-embedding`, or with `model` that of
                the server.
            timeout_s: for one request, all its attempts and the pauses between them. An answer that
                comes in drops may take up to twice as long here, not in `AsyncClient`.
            retries: how often a request is sent again after a broken connection, 429, 502, 503 or
                504, with pauses that double from 0.1 s, at random, and are not shorter than
                `Retry-After`.
            max_items: of a list in one request; four of the model's full batches if None, and never
                more than the model's limits allow.
            concurrency: requests of one list under way at a time.
            http_client: for TLS, proxies, authentication and headers of the caller's own; it is
                not closed here.

        Raises:
            ConfigurationError: no such URL, or a number that makes no sense; the path says which.
        """
        self._endpoint = Endpoint(url, model, Patience.parse(timeout_s, retries))
        self._max_items = None if max_items is None else check_count("max_items", max_items)
        self._concurrency = check_count("concurrency", concurrency)
        self._owns_http = http_client is None
        self._http = http_client or httpx.Client(limits=LIMITS)

    def predict(
        self,
        images: Image | Iterable[Image],
        *,
        form: Form | None = None,
        content_type: str | None = None,
        progress: bool | Progress = False,
    ) -> Any:
        """Return what the model makes of one image or of many.

        The first failure ends it; requests under way are then left to end by themselves.

        Args:
            images: one, or a list of them (or an array with a batch axis): paths, bytes of image
                files, or arrays, as `Image` says. A list is cut into requests within the model's
                limits, as packed streams if the model takes these; of a long one only what is
                under way is in memory.
            form: `npy` for arrays or `json` for plain values, where the model's own description is
                not to decide.
            content_type: of bytes for a model that takes whole requests.
            progress: called with the items done and all items; True for a line on stderr, if that
                is a terminal.

        Returns:
            Of one image its result: an array where the model's output is one (of no axes for a
            number), a dict of arrays where there are several, or the JSON value, or bytes. Of a
            list all of them in order: an array, or each of the dict's, with the images on axis 0;
            a list if they are objects or of unlike shapes.

        Raises:
            InvalidRequest: an image that cannot be read or that the model does not take. The
                sentence is the server's own; the path says which image.
            ModelNotFound: nothing answers at the URL's path.
            Overloaded, Unavailable: also after all retries; ConnectionFailed is one.
            DeadlineExceeded: no result within the model's deadline, or within `timeout_s`.
            PredictError: the model failed.
            UnexpectedAnswer: what answers is no model.
        """
        prediction = Prediction(
            self._run(self._endpoint.know()),
            images,
            form=form,
            content_type=content_type,
            progress=progress,
            max_items=self._max_items,
        )
        parts = prediction.parts()
        first = next(parts)
        if first.item_count == prediction.total:
            prediction.accept(first, self._run(self._endpoint.predict(prediction, first)))
        else:
            self._predict_all(prediction, first, parts)
        return prediction.result()

    def describe(self) -> dict[str, Any]:
        """Return what the model says of itself now: its input, outputs, limits and versions.

        `predict` asks once and remembers; after a change of the model this makes it know.
        """
        return self._run(self._endpoint.describe())

    def ready(self) -> bool:
        """Return whether predictions can be expected to succeed, asked once.

        Raises:
            ModelNotFound: nothing answers at the URL's path.
        """
        return self._run(self._endpoint.is_ready())

    def wait_until_ready(self, timeout_s: float = 300.0) -> None:
        """Return when the model is ready.

        Raises:
            ModelNotReady: it is not in time; the cause is what came last.
        """
        self._run(self._endpoint.wait_until_ready(timeout_s))

    def close(self) -> None:
        """Close the connections."""
        if self._owns_http:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _predict_all(self, prediction: Prediction, first: Part, rest: Iterator[Part]) -> None:
        stopped = Event()

        def send(part: Part) -> tuple[Part, Rows]:
            return part, self._run(self._endpoint.predict(prediction, part), stopped)

        running: set[Future[tuple[Part, Rows]]] = set()
        part: Part | None = first
        pool = ThreadPoolExecutor(self._concurrency, "rayserve-client")
        try:
            while part is not None or running:
                if part is not None and len(running) < self._concurrency:
                    running.add(pool.submit(send, part))
                    part = next(rest, None)
                    continue
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for each in done:
                    prediction.accept(*each.result())
        finally:
            # After a failure, nobody waits for those under way: they end by themselves.
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, flow: Flow[T], stopped: Event | None = None) -> T:
        """Do what a flow asks for.

        Raises:
            CancelledError: `stopped` before the request was sent again.
        """
        stopped = stopped or Event()
        outcome: Outcome = None
        try:
            while True:
                step = flow.send(outcome)
                if isinstance(step, Pause):
                    if stopped.wait(step.seconds):
                        raise CancelledError
                    outcome = None
                else:
                    outcome = self._send(step)
        except StopIteration as stop:
            value: T = stop.value
            return value

    def _send(self, attempt: Attempt) -> Outcome:
        ends_at = monotonic() + attempt.timeout_s
        asked = attempt.request
        request = self._http.build_request(
            asked.method,
            asked.url,
            content=asked.content,
            headers=asked.headers,
            timeout=attempt.timeout,
        )
        try:
            response = self._http.send(request, stream=True)
            try:
                content = bytearray()
                for piece in response.iter_bytes():
                    content += piece
                    if monotonic() > ends_at:
                        return TimeoutError("The answer comes too slowly")
            finally:
                response.close()
        except httpx.RequestError as exc:
            return exc
        return Answer(response.status_code, response.headers, content)
