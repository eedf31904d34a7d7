"""One call of `predict`, without I/O to the server: its requests, and what their answers make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rayserve_app.client import images, parts, results
from rayserve_app.client.description import Description
from rayserve_app.client.images import Element, Image
from rayserve_app.client.parts import Bounds, Part
from rayserve_app.client.progress import Progress, create_progress
from rayserve_app.client.results import Form, Results, Rows
from rayserve_app.errors import InvalidRequest, ServingError


class Prediction:
    """The requests of one prediction, and where their results come together."""

    def __init__(
        self,
        description: Description,
        value: Image | Iterable[Image],
        *,
        form: Form | None = None,
        content_type: str | None = None,
        progress: bool | Progress = False,
        max_items: int | None = None,
    ) -> None:
        """
        Raises:
            InvalidRequest: no items at all, or a content type for a model that knows its own.
        """
        if content_type is not None and description.input_type != "request":
            raise InvalidRequest(
                "This model's input has one content type",
                expected="no `content_type`, which is for models of type 'request'",
                got=repr(content_type),
            )
        self._description = description
        self._content_type = content_type
        self._is_many = images.is_many(value, description)
        self._images: list[Any] = _listed(value) if self._is_many else [value]
        if not self._images:
            raise InvalidRequest("No images", expected="at least one")
        self.results = Results(description, form)
        self._bounds = Bounds.of(description, 1 if self.results.is_one_by_one else max_items)
        self._progress = create_progress(progress, description.name)
        self._rows: dict[int, Rows] = {}
        self._done = 0

    @property
    def total(self) -> int:
        """The number of items."""
        return len(self._images)

    def parts(self) -> Iterator[Part]:
        """Read the images and yield request after request; lazy, so that only a part of a long list
        is in memory. Blocks while files are read.

        Raises:
            InvalidRequest: an image that cannot be sent; the path says which.
        """
        start = 0
        for group in parts.cut(self._elements(), self._bounds):
            part = parts.join(group, start)
            start = part.stop
            yield part

    def accept(self, part: Part, rows: Rows) -> None:
        """Keep the results of a part."""
        self._rows[part.start] = rows
        self._done += part.item_count
        self._progress(self._done, self.total)

    def result(self) -> Any:
        """Return the result when all parts have theirs: of one image the bare one."""
        rows = results.join([self._rows[start] for start in sorted(self._rows)])
        return rows if self._is_many else results.item(rows, 0)

    def error(self, error: ServingError, part: Part) -> ServingError:
        """Return the error of a part as the caller sees it, who knows of no parts."""
        if part.item_count == self.total:
            return error
        place = f"images[{part.start}:{part.stop}]"
        return error.at(place if part.item_count > 1 else f"images[{part.start}]")

    def _elements(self) -> Iterator[Element]:
        for index, value in enumerate(self._images):
            try:
                element = images.read(value, self._description, self._content_type)
                parts.check_size(element, self._bounds)
            except ServingError as exc:
                raise exc.at(f"images[{index}]") if self._is_many else exc from exc.__cause__
            yield element


def _listed(value: Any) -> list[Any]:
    try:
        return list(value)
    except TypeError as exc:
        raise InvalidRequest(
            "Not images",
            expected="a path, bytes, an array, or a list of them",
            got=type(value).__name__,
        ) from exc
