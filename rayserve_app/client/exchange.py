"""One request with its repetitions, without I/O: a generator yields what to do next and is sent
what came of it, as HTTPX's authentication flows are."""

from __future__ import annotations

import random
from collections.abc import Generator
from operator import index
from time import monotonic
from typing import Any, Final, NamedTuple, Self, TypeAlias, TypeVar

import httpx

from rayserve_app.client.answers import Answer
from rayserve_app.client.errors import ConnectionFailed, TimedOut, UnexpectedAnswer
from rayserve_app.errors import ConfigurationError, ServingError, Unavailable

CONNECT_TIMEOUT_S: Final = 5.0

REPEATED: Final = (429, 502, 503, 504)
"""Statuses after which the same request may succeed. Predictions change nothing on a server, so
that repeating one is safe."""

LONGEST_TIMEOUT_S: Final = 1e6
"""Eleven days; sockets take no more than twice as much."""

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 10.0


class Request(NamedTuple):
    """One HTTP request."""

    method: str
    url: httpx.URL
    accept: str
    content: bytes = b""
    content_type: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        headers = {"accept": self.accept}
        if self.content_type is not None:
            headers["content-type"] = self.content_type
        return headers

    def __str__(self) -> str:
        return f"{self.method} {self.url.copy_with(userinfo=b'')}"


class Attempt(NamedTuple):
    """Send the request; its answer, to the last byte, must be there in so many seconds."""

    request: Request
    timeout_s: float

    @property
    def timeout(self) -> httpx.Timeout:
        return httpx.Timeout(self.timeout_s, connect=min(CONNECT_TIMEOUT_S, self.timeout_s))


class Pause(NamedTuple):
    """Wait."""

    seconds: float


class Patience(NamedTuple):
    """How long a client goes on."""

    timeout_s: float
    """For one request: all its attempts, and the pauses between them."""
    retries: int
    """How often a request is sent again."""

    @classmethod
    def parse(cls, timeout_s: float, retries: int) -> Self:
        """Take a caller's own numbers.

        Raises:
            ConfigurationError: one of them makes no sense.
        """
        return cls(check_seconds("timeout_s", timeout_s), check_count("retries", retries, least=0))


def check_seconds(name: str, value: Any) -> float:
    """Return a number of seconds that can be waited for, or raise ConfigurationError."""
    try:
        if not isinstance(value, str | bool) and 0 < value <= LONGEST_TIMEOUT_S:
            return float(value)
    except (TypeError, ValueError):
        pass
    expected = f"seconds above 0, at most {LONGEST_TIMEOUT_S:.0f}"
    raise ConfigurationError(f"No such {name}", expected=expected, got=repr(value), path=name)


def check_count(name: str, value: Any, *, least: int = 1) -> int:
    """Return a whole number that is not too small, or raise ConfigurationError."""
    try:
        if not isinstance(value, bool) and index(value) >= least:
            return index(value)
    except TypeError:
        pass
    expected = f"a whole number, at least {least}"
    raise ConfigurationError(f"No such {name}", expected=expected, got=repr(value), path=name)


Step: TypeAlias = Attempt | Pause

Outcome: TypeAlias = Answer | httpx.RequestError | TimeoutError | None

T = TypeVar("T")

Flow: TypeAlias = Generator[Step, Outcome, T]


def exchange(request: Request, patience: Patience) -> Flow[Answer]:
    """Send a request until it is answered.

    Raises:
        ServingError: what the last answer stands for, or why there is none; its note names the
            request and the number of attempts.
    """
    ends_at = monotonic() + patience.timeout_s
    attempts = 0
    while True:
        attempts += 1
        outcome = yield Attempt(request, max(0.001, ends_at - monotonic()))
        error = _error_of(outcome, patience)
        if error is None:
            assert isinstance(outcome, Answer)
            return outcome
        pause_s = _pause_s(outcome, attempts)
        is_last = attempts > patience.retries or not _may_repeat(outcome)
        if is_last or monotonic() + pause_s >= ends_at:
            error.add_note(f"{request}, {attempts} attempt{'s' if attempts > 1 else ''}")
            raise error
        yield Pause(pause_s)


def _error_of(outcome: Outcome, patience: Patience) -> ServingError | None:
    if isinstance(outcome, Answer):
        error = outcome.error()
        if isinstance(error, Unavailable) and outcome.retry_after_s is not None:
            error.retry_after_s = round(outcome.retry_after_s)
        return error
    error = _failure_of(outcome, patience)
    error.__cause__ = outcome
    return error


def _failure_of(outcome: Outcome, patience: Patience) -> ServingError:
    if isinstance(outcome, httpx.ConnectTimeout):
        return ConnectionFailed("No connection in time")
    if isinstance(outcome, httpx.TimeoutException | TimeoutError):
        return TimedOut(f"No answer within {patience.timeout_s:g} s")
    if isinstance(outcome, httpx.TransportError):
        return ConnectionFailed(f"The connection failed: {outcome or type(outcome).__name__}")
    return UnexpectedAnswer(f"The answer cannot be read: {outcome}")


def _may_repeat(outcome: Outcome) -> bool:
    if isinstance(outcome, Answer):
        return outcome.status in REPEATED
    return isinstance(
        outcome, httpx.NetworkError | httpx.RemoteProtocolError | httpx.ConnectTimeout
    )


def _pause_s(outcome: Outcome, attempts: int) -> float:
    """Return a random part of a bound that doubles, so that clients who failed together do not come
    back together, on top of what the server asks for."""
    asked_s = outcome.retry_after_s if isinstance(outcome, Answer) else None
    most_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(attempts - 1, 10))
    return (asked_s or 0.0) + random.uniform(most_s / 2, most_s)
