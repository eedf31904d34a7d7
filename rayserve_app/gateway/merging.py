"""One answer made of those of several models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rayserve_app import exposition
from rayserve_app.codecs import json
from rayserve_app.errors import DecodeError
from rayserve_app.http import Response


class Answer(NamedTuple):
    """A whole answer of one model."""

    status: int
    media_type: str | None
    body: bytes

    def response(self) -> Response:
        return Response(self.body, status=self.status, media_type=self.media_type)


def merge_answers(answers: Sequence[Answer]) -> Answer:
    """Return the answer for all of them: lists are joined, objects united.

    What a model does not know (404) is left out; of the rest the worst status counts, so that all
    are well only if each is. Bodies that are neither JSON nor metrics are not joined: the first one
    stands.

    Args:
        answers: at least one.
    """
    known = [answer for answer in answers if answer.status != 404] or answers
    worst = max(known, key=lambda answer: answer.status)
    if worst.status != known[0].status:
        return worst
    if all(answer.media_type in (exposition.TEXT, exposition.OPEN) for answer in known):
        return worst._replace(body=exposition.merge([answer.body for answer in known]))
    try:
        documents = [json.decode(answer.body) for answer in known]
    except DecodeError:
        return worst
    body = json.encode(merge(documents))
    if (worst.media_type or "").startswith("text/html"):
        # JSON that calls itself HTML: no browser shall find a tag in it.
        body = body.replace(b"<", b"\\u003c")
    return worst._replace(body=body)


def merge(documents: Sequence[Any]) -> Any:
    """Return JSON values as one: lists joined without repeating an element, objects united key by
    key, of anything else the first."""
    if all(isinstance(document, list) for document in documents):
        joined: list[Any] = []
        for document in documents:
            joined += [element for element in document if element not in joined]
        return joined
    if all(isinstance(document, dict) for document in documents):
        keys = dict.fromkeys(key for document in documents for key in document)
        return {
            key: merge([document[key] for document in documents if key in document]) for key in keys
        }
    return documents[0]
