"""Failed calls, and what the sentences about them are made of.

Source: tensorflow, core/lib/core/errors.h; grpc, statuscodes.md.
"""

from __future__ import annotations


class StatusError(Exception):
    """A failed call: a gRPC status code's name, and the sentence."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def invalid(message: str) -> StatusError:
    """Return the error for what the caller should not have sent."""
    return StatusError("INVALID_ARGUMENT", message)
