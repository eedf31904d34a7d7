"""Where a model answers: the flows of all that a client asks of it, and what it has told."""

from __future__ import annotations

from time import monotonic
from typing import Any, Final
from urllib.parse import quote

import httpx

from rayserve_app.client.answers import Answer
from rayserve_app.client.description import Description
from rayserve_app.client.errors import UnexpectedAnswer
from rayserve_app.client.exchange import Flow, Patience, Pause, Request, exchange
from rayserve_app.client.parts import Part
from rayserve_app.client.prediction import Prediction
from rayserve_app.client.results import Rows
from rayserve_app.errors import (
    ConfigurationError,
    DeadlineExceeded,
    ModelNotFound,
    ModelNotReady,
    ServingError,
    Unavailable,
)
from rayserve_app.media_types import JSON

POLL_S: Final = 0.25

LIMITS: Final = httpx.Limits(keepalive_expiry=2.0)
"""Uvicorn closes an idle connection after 5 s; one that is not used after 2 is never found closed
by the next request."""


class Endpoint:
    """A model's URL, without I/O."""

    def __init__(self, url: str, model: str | None, patience: Patience) -> None:
        """
        Raises:
            ConfigurationError: no URL of http or https.
        """
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as exc:
            raise ConfigurationError(f"Not a URL: {exc}", got=repr(url), path="url") from exc
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ConfigurationError(
                "Not a model's URL",
                expected="http://HOST:PORT/NAME",
                got=repr(url),
                path="url",
            )
        self.url = _below(parsed, f"/{quote(model)}" if model else "")
        self._patience = patience
        self._description: Description | None = None

    def describe(self) -> Flow[dict[str, Any]]:
        """Ask the model what it is, and remember it."""
        answer = yield from exchange(self._get(), self._patience)
        value = answer.value()
        self._description = Description.parse(value)
        return dict(value)

    def know(self) -> Flow[Description]:
        """Return what the model is, asked once."""
        if self._description is None:
            yield from self.describe()
        assert self._description is not None
        return self._description

    def is_ready(self) -> Flow[bool]:
        """Ask, once, whether predictions can be expected to succeed."""
        try:
            answer = yield from exchange(self._get(), self._patience._replace(retries=0))
        except Unavailable:
            return False
        return _says_ready(answer)

    def wait_until_ready(self, timeout_s: float) -> Flow[None]:
        """Ask until the model is ready.

        Raises:
            ModelNotReady: it is not in time; the cause is what came last.
        """
        ends_at = monotonic() + timeout_s
        cause: ServingError | None = None
        while (left_s := ends_at - monotonic()) > 0:
            patience = Patience(min(left_s, self._patience.timeout_s), retries=0)
            try:
                answer = yield from exchange(self._get(), patience)
            # Before its application is deployed, a model is not found.
            except (Unavailable, ModelNotFound, DeadlineExceeded) as exc:
                cause = exc
            else:
                if _says_ready(answer):
                    return
            yield Pause(POLL_S)
        raise ModelNotReady(f"The model is not ready after {timeout_s:g} s") from cause

    def predict(self, prediction: Prediction, part: Part) -> Flow[Rows]:
        """Send one part of a prediction and return its results."""
        url = _below(self.url, "/invocations")
        accept = prediction.results.accept
        request = Request("POST", url, accept, part.body, part.content_type)
        try:
            answer = yield from exchange(request, self._patience)
            return prediction.results.read(answer, part)
        except ServingError as exc:
            raise prediction.error(exc, part) from exc.__cause__

    def _get(self) -> Request:
        return Request("GET", self.url, JSON)


def _below(url: httpx.URL, path: str) -> httpx.URL:
    prefix, mark, query = url.raw_path.partition(b"?")
    return url.copy_with(raw_path=prefix.rstrip(b"/") + path.encode() + mark + query)


def _says_ready(answer: Answer) -> bool:
    value = answer.value()
    if not isinstance(value, dict) or not isinstance(value.get("ready"), bool):
        raise UnexpectedAnswer("Not the description of a model")
    return bool(value["ready"])
