"""Errors as gRPC's status codes.

Source: tensorflow, core/lib/core/errors.h; grpc, statuscodes.md.
"""

from __future__ import annotations

from rayserve_app.errors import InvalidRequest, ModelNotFound, ServingError, VersionNotFound


class FailedPrecondition(InvalidRequest):
    """The model is not of the kind that a call is for."""


def code_of(error: ServingError) -> str:
    """Return the name of an error's status code."""
    if isinstance(error, ModelNotFound | VersionNotFound):
        return "NOT_FOUND"
    if isinstance(error, FailedPrecondition):
        return "FAILED_PRECONDITION"
    return "INVALID_ARGUMENT" if isinstance(error, InvalidRequest) else "INTERNAL"
