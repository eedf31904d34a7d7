"""The error tree: sentences, paths, pickles, statuses."""

from __future__ import annotations

import asyncio
import pickle
import re
from collections.abc import Iterator

import pytest

from rayserve_app import errors
from rayserve_app.errors import DecodeError, ServingError, release
from rayserve_app.web.messages import STATUS, retry_headers, status_of


def subclasses(kind: type[ServingError]) -> Iterator[type[ServingError]]:
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from subclasses(child)


KINDS = [ServingError, *subclasses(ServingError)]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ServingError("Bad"), "Bad"),
        (ServingError("Bad", expected="a"), "Bad: expected a"),
        (ServingError("Bad", got="b"), "Bad: got b"),
        (ServingError("Bad", expected="a", got="b"), "Bad: expected a, got b"),
        (ServingError("Bad", path="x[1]"), "Bad - at `x[1]`"),
        (ServingError("Bad", remedy="Mend it."), "Bad. Mend it."),
        (
            ServingError("Bad", expected="a", got="b", path="x", remedy="Mend it."),
            "Bad: expected a, got b - at `x`. Mend it.",
        ),
    ],
)
def test_an_error_makes_its_own_sentence(error: ServingError, sentence: str) -> None:
    assert str(error) == sentence


@pytest.mark.parametrize(
    ("path", "prefix", "joined"),
    [
        ("", "images[3]", "images[3]"),
        ("size", "images[3]", "images[3].size"),
        ("[0]", "images", "images[0]"),
        ("[0].size", "images", "images[0].size"),
    ],
)
def test_an_error_is_told_from_one_level_up(path: str, prefix: str, joined: str) -> None:
    cause = ValueError("why")
    error = DecodeError("Bad", expected="a", path=path)
    error.__cause__ = cause
    seen = error.at(prefix)
    assert type(seen) is DecodeError
    assert (seen.path, seen.expected, seen.__cause__) == (joined, "a", cause)
    assert error.path == path


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_survives_the_way_from_a_replica(kind: type[ServingError]) -> None:
    error = kind("Bad", expected="a", got="b", path="x", remedy="Mend it.")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)


def test_the_status_of_every_error() -> None:
    statuses = {kind.__name__: status_of(kind("Bad")) for kind in KINDS}
    assert statuses == {
        "ServingError": 500,
        "InvalidRequest": 400,
        "DecodeError": 400,
        "ShapeMismatch": 400,
        "UnsupportedContentType": 415,
        "NotAcceptable": 406,
        "RequestTooLarge": 413,
        "BodyTimeout": 408,
        "VersionNotFound": 404,
        "ModelNotFound": 404,
        "Unavailable": 503,
        "ModelNotReady": 503,
        "Overloaded": 503,
        "DeadlineExceeded": 504,
        "BackendError": 500,
        "LoadError": 500,
        "PredictError": 500,
        "ConfigurationError": 500,
        "MissingDependency": 500,
    }


@pytest.mark.parametrize("kind", KINDS[1:], ids=lambda kind: kind.__name__)
def test_no_error_has_its_status_by_accident(kind: type[ServingError]) -> None:
    assert any(ancestor in STATUS for ancestor in kind.__mro__)


def test_only_what_may_succeed_later_says_when() -> None:
    says_when = {kind.__name__ for kind in KINDS if retry_headers(kind("Bad"))}
    assert says_when == {"Unavailable", "ModelNotReady", "Overloaded"}
    assert retry_headers(errors.Overloaded("Full")) == {"retry-after": "1"}


async def test_letting_go_of_an_error_leaves_others_alone_that_have_it_too() -> None:
    """It is the answer to a whole batch, and each request has raised it."""
    error = DecodeError("Broken batch")
    answered = asyncio.Event()

    async def retry() -> str:
        try:
            raise error
        except DecodeError:
            await answered.wait()
            return "done"

    async def answer() -> None:
        try:
            raise error
        except DecodeError as exc:
            release(exc)
        answered.set()

    waiting = asyncio.ensure_future(retry())
    await asyncio.sleep(0)
    await answer()
    assert error.__traceback__ is None
    assert await waiting == "done"


def test_letting_go_of_an_error_lets_go_of_those_it_came_from() -> None:
    def read(body: str) -> None:
        try:
            int(body)
        except ValueError as exc:
            raise DecodeError("No number") from exc

    def read_first(bodies: list[str]) -> None:
        try:
            read(bodies[0])
        except DecodeError as exc:
            raise exc.at("[0]") from exc.__cause__

    with pytest.raises(DecodeError) as info:
        read_first(["one"])
    error = info.value
    release(error)
    (before, cause) = error.__context__, error.__cause__
    assert [each and each.__traceback__ for each in (error, before, cause)] == [None] * 3
    assert (str(before), type(cause)) == ("No number", ValueError)


def test_the_module_draws_every_error_below_its_parent() -> None:
    drawn = {"ServingError": "Exception"}
    parents = ["ServingError"]
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"([│├└─ ]{4,})(\w+)", line):
            del parents[len(match[1]) // 4 :]
            drawn[match[2]] = parents[-1]
            parents.append(match[2])
    assert drawn == {kind.__name__: kind.__mro__[1].__name__ for kind in KINDS}
