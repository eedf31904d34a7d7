"""Everything that can go wrong, as one tree.

ServingError
├── InvalidRequest             the caller's fault
│   ├── DecodeError            a payload is not what its codec says
│   ├── ShapeMismatch          a tensor's shape, rank or type does not fit the model
│   ├── UnsupportedContentType a body's media type is none of the model's
│   ├── NotAcceptable          no representation of the answer fits `Accept`
│   ├── RequestTooLarge        more bytes, items or pixels than the model's limits allow
│   ├── BodyTimeout            the body came too slowly
│   └── VersionNotFound        the model has no such version
├── ModelNotFound              no model of that name
├── Unavailable                try again later
│   ├── ModelNotReady          still loading, warming up, or being replaced
│   └── Overloaded             the model has more to do than it can answer in time
├── DeadlineExceeded           no result within the model's deadline
├── BackendError               the model's fault
│   ├── LoadError              the model cannot be loaded
│   └── PredictError           the model failed on an input
└── ConfigurationError         the operator's fault: a setting, or an extra that is not installed
    └── MissingDependency

Errors hold what was expected, what came, where, and what to do; `str()` makes the sentence.
They pickle, because they cross from a replica to a caller of its handle.
"""

from __future__ import annotations

import copy
from typing import Self


class ServingError(Exception):
    """Base of all errors that a caller or an operator is told about."""

    def __init__(
        self,
        problem: str,
        *,
        expected: str | None = None,
        got: str | None = None,
        path: str = "",
        remedy: str | None = None,
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.expected = expected
        self.got = got
        self.path = path
        self.remedy = remedy

    def __str__(self) -> str:
        text = self.problem
        if self.expected is not None:
            text += f": expected {self.expected}"
        if self.got is not None:
            text += f"{': ' if self.expected is None else ', '}got {self.got}"
        if self.path:
            text += f" - at `{self.path}`"
        if self.remedy is not None:
            text += f". {self.remedy}"
        return text

    def at(self, prefix: str) -> Self:
        """Return the same error seen from one level up: `at("images[3]")` of `size` is
        `images[3].size`."""
        error = copy.copy(self)
        joint = "." if self.path and not self.path.startswith("[") else ""
        error.path = f"{prefix}{joint}{self.path}"
        error.__cause__ = self.__cause__
        return error


class InvalidRequest(ServingError):
    """The request cannot be answered as it stands."""


class DecodeError(InvalidRequest):
    """A payload is not what its codec says."""


class ShapeMismatch(InvalidRequest):
    """A tensor's shape, rank or type does not fit the model."""


class UnsupportedContentType(InvalidRequest):
    """The media type of a body is none that the model takes."""


class NotAcceptable(InvalidRequest):
    """No representation of the answer fits the request's `Accept`."""


class RequestTooLarge(InvalidRequest):
    """More bytes, items or pixels than the model's limits allow."""


class BodyTimeout(InvalidRequest):
    """The body did not arrive within the model's body time-out or least rate."""


class VersionNotFound(InvalidRequest):
    """The model has no such version."""


class ModelNotFound(ServingError):
    """No model has that name."""


class Unavailable(ServingError):
    """The same request may succeed later."""

    retry_after_s = 1
    """When, in whole seconds."""


class ModelNotReady(Unavailable):
    """The model is loading, warming up, or about to be replaced."""

    retry_after_s = 5


class Overloaded(Unavailable):
    """The model has more to do than it can answer in time."""


class DeadlineExceeded(ServingError):
    """The model gave no result within its deadline."""


class BackendError(ServingError):
    """The model is at fault, not the request."""


class LoadError(BackendError):
    """The model cannot be loaded."""


class PredictError(BackendError):
    """The model failed on an input."""


class ConfigurationError(ServingError):
    """A setting is wrong; the path names its key."""


class MissingDependency(ConfigurationError):
    """A package that a setting needs is not installed; the remedy is the command."""


def release(error: BaseException | None) -> None:
    """Drop the tracebacks of an error that is answered, and of those that it came from.

    They refer to frames and these, or a future, to the error: in that circle a request's body would
    stay until the garbage collector finds it. Nothing is done to the frames themselves. They may be
    another request's, which waits: one error can be the answer to a whole batch.
    """
    seen: set[int] = set()
    left = [error]
    while left:
        each = left.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            each.__traceback__ = None
            left += [each.__cause__, each.__context__]
