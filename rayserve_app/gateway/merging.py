"""One answer made of those of several models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rayserve_app.codecs import json
from rayserve_app.errors import DecodeError
from rayserve_app.metrics import exposition
from rayserve_app.web.messages import Response

UNKNOWN: Final = (401, 403, 400, 405, 404)
"""Statuses of a model that does not know what is asked, or not who asks: where no model does, those
who ask for a password are heard before those who know of nothing."""


@dataclass(frozen=True)
class Answer:
    """A whole answer of one model."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def response(self) -> Response:
        return Response(self.body, status=self.status, headers=self.headers)


def merge_answers(answers: Sequence[Answer]) -> Answer:
    """Return the answer for all of them, the same in whatever order they come: lists are joined,
    objects united.

    What a model does not know, or does not tell this client, is left out. Of the rest the worst
    status counts, so that all are well only if each is, and those who give it are heard. Where they
    answer in several forms, as models of unlike protocols do, the form of most of them counts.

    Args:
        answers: at least one.
    """
    known = [each for each in answers if each.status not in UNKNOWN]
    for status in UNKNOWN:
        known = known or [each for each in answers if each.status == status]
    worst = max(each.status for each in known)
    heard = sorted(
        (each for each in known if each.status == worst),
        key=lambda each: (each.body, each.media_type),
    )
    documents = [(each, _decoded(each.body)) for each in heard]
    forms = Counter(_form(each, document) for each, document in documents)
    form = max(forms, key=lambda form: (forms[form], form))
    alike = [(each, document) for each, document in documents if _form(each, document) == form]
    first, document = alike[0]
    if first.headers.get("content-type") in exposition.MEDIA_TYPES:
        body = exposition.merge([each.body for each, _ in alike])
        return Answer(first.status, body, first.headers)
    if document is None:
        return first
    body = json.encode(merge([document for _, document in alike]))
    if first.media_type == "text/html":
        # JSON that calls itself HTML: no browser shall find a tag in it.
        body = body.replace(b"<", b"\\u003c")
    return Answer(first.status, body, first.headers)


def merge(documents: Sequence[Any]) -> Any:
    """Return JSON values as one: lists joined without repeating an element, objects united key by
    key; what is true or false is true if all are. Of anything else the first."""
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
    if all(isinstance(document, bool) for document in documents):
        return all(documents)
    return documents[0]


def _decoded(body: bytes) -> Any:
    """Return the JSON value, None if it is not JSON, or null."""
    try:
        return json.decode(body)
    except DecodeError:
        return None


def _form(answer: Answer, document: Any) -> tuple[str, str]:
    return answer.media_type, type(document).__name__
