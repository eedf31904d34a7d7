"""What a replica is sent before the body of a request, and what of its answer is not passed on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import quote

from starlette.types import Scope

from rayserve_app.gateway.connection import Header
from rayserve_app.gateway.replicas import ServedModel
from rayserve_app.gateway.upload import Upload
from rayserve_app.web.messages import FORWARDED, GATEWAYS
from rayserve_app.web.scope import CLIENT_HEADERS, REQUEST_ID

ORDER: Final = FORWARDED.encode()

LOOPS: Final = GATEWAYS.encode()
"""The gateways that a request has passed, by names that nobody else can know: one that finds its
own forwards the request no more. What a client writes there is nobody's name."""

MODEL: Final = b"x-rayserve-model"
"""The header of an answer that says which model gave it."""

LATE_S: Final = 0.5
"""By how much an answer may be late: after its model's deadline the model's own is on its way."""

# RFC 9110, section 7.6.1; `Expect` has been answered by this server already.
HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"expect",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

UNSENT: Final = HOP_BY_HOP | {ORDER, LOOPS}
"""What of a request is not passed on as it is."""

UNWANTED: Final = HOP_BY_HOP | {b"date", b"server", MODEL}
"""What of an answer is not passed on: uvicorn writes `date` and `server` into every one itself."""

UNWANTED_IN_SERVE: Final = UNWANTED | {REQUEST_ID}
"""Serve writes the third, which it shares with the replica."""

# What may stand in a path as it is (RFC 3986, section 3.3).
SAFE: Final = "/:@!$&'()*+,;=~"


class RequestHead(NamedTuple):
    """What is sent before the body, and how the body is sent."""

    head: bytes
    is_chunked: bool
    has_answer_body: bool
    unwanted: frozenset[bytes]
    """Headers of the answer that are not passed on."""
    model: bytes
    """The model's name, as a header has it."""
    limit_s: float
    """From the end of its body to the head of the answer."""


def request_head(
    scope: Scope, path: str, upload: Upload, order: bytes, gateway: bytes, model: ServedModel
) -> RequestHead:
    all_headers = _request_headers(scope)
    headers = _end_to_end(all_headers)
    target = quote(path, safe=SAFE).encode()
    if query := scope.get("query_string", b""):
        target += b"?" + query
    lines = [b"%s %s HTTP/1.1" % (scope["method"].encode(), target)]
    lines += [b"%s: %s" % header for header in headers]
    has_length = any(name == b"content-length" for name, _ in headers)
    is_chunked = not has_length and not upload.is_whole
    if is_chunked:
        lines.append(b"transfer-encoding: chunked")
    elif not has_length and upload.size:
        lines.append(b"content-length: %d" % upload.size)
    passed = [value + b"," for name, value in all_headers if name == LOOPS]
    lines.append(b"%s: %s" % (ORDER, order))
    lines.append(b"%s: %s%s\r\n\r\n" % (LOOPS, passed[-1] if passed else b"", gateway))
    unwanted = UNWANTED_IN_SERVE if CLIENT_HEADERS in scope else UNWANTED
    return RequestHead(
        b"\r\n".join(lines),
        is_chunked,
        scope["method"] != "HEAD",
        unwanted,
        _quoted(model.name),
        model.deadline_s + LATE_S,
    )


def _end_to_end(headers: Sequence[Header]) -> list[Header]:
    """Return the headers that are not for this hop alone; a client may name more of those."""
    named = b",".join(value for name, value in headers if name == b"connection").lower()
    unsent = UNSENT | {each.strip() for each in named.split(b",")} if named else UNSENT
    return [header for header in headers if header[0] not in unsent]


@lru_cache(maxsize=1024)
def _quoted(name: str) -> bytes:
    """Return a model's name as a header has it."""
    return quote(name, safe=" " + SAFE).encode()


def _request_headers(scope: Scope) -> list[Header]:
    """Return the client's headers; within Serve, with the identifier that Serve has given the
    request, which the replica's logs are then to be found by as well."""
    if CLIENT_HEADERS not in scope:
        own: list[Header] = scope["headers"]
        return own
    headers = [header for header in scope[CLIENT_HEADERS] if header[0] != REQUEST_ID]
    headers += [header for header in scope["headers"] if header[0] == REQUEST_ID]
    return headers
