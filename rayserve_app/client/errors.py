"""What can go wrong between a client and a server, beside what the server says itself."""

from __future__ import annotations

from rayserve_app.errors import DeadlineExceeded, ServingError, Unavailable


class ConnectionFailed(Unavailable):
    """No connection, or one that broke before the whole answer was there."""


class TimedOut(DeadlineExceeded):
    """The client's own `timeout_s` is over."""


class UnexpectedAnswer(ServingError):
    """An answer that no model gives: something else listens at the URL."""
