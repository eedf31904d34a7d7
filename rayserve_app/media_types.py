"""Media types by the names that we use, and what a client prefers: lists with weights, as `Accept`
and `Accept-Encoding` hold them.

Source: RFC 9110, sections 5.6.6, 12.4.2 and 12.5.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Final, NamedTuple, TypeVar

JSON: Final = "application/json"
CSV: Final = "text/csv"
NPY: Final = "application/x-npy"
TEXT: Final = "text/plain"
OCTETS: Final = "application/octet-stream"

IMAGE_TYPES: Final = tuple(
    f"image/{name}" for name in ("bmp", "gif", "jpeg", "png", "tiff", "webp")
)

SAME: Final = {"binary/octet-stream": OCTETS, "application/x-image": "image/*"}
"""Other names for media types: S3's for what it was told nothing of, SageMaker's for images."""

OUTPUTS: Final = "x-rayserve-outputs"
"""The header that takes a flat `.npy` apart: `flat_shapes` as JSON, in ASCII."""

T = TypeVar("T")

# What stands between commas, or semicolons, that are not in quotation marks.
_ELEMENTS: Final = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*+"?)++')
_PARAMETERS: Final = re.compile(r'(?:[^;"]|"(?:[^"\\]|\\.)*+"?)++')
_WEIGHT: Final = re.compile(r"0(?:\.[0-9]*)?|1(?:\.0*)?|\.[0-9]+")


class Preference(NamedTuple):
    """One element of such a list: a media range or a coding, in lower case, and its weight, 0 to 1;
    what has none is not acceptable."""

    value: str
    weight: float


@lru_cache(maxsize=64)
def media_type(content_type: str | None) -> str:
    """Return the media type alone, in lower case, by the name that we know; empty if the header is
    absent."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    return SAME.get(kind, kind)


@lru_cache(maxsize=64)
def preferences(header: str | None) -> tuple[Preference, ...]:
    """Return the elements of a header in their order; clients send the same ones again."""
    return tuple(_read(header)) if header else ()


def ranked(
    header: str, forms: Mapping[T, str], only_by_name: Mapping[T, str] | None = None
) -> list[T]:
    """Return the forms that an `Accept` header allows: by weight, then in its order. A form has the
    weight of what names it most closely; of those that one range allows the first is preferred.

    Args:
        forms: their media types.
        only_by_name: those of further forms, which no wildcard means.
    """
    ranges = preferences(header)
    found: list[tuple[float, int, T]] = []
    for form, media_type in {**forms, **(only_by_name or {})}.items():
        names = [media_type]
        if form in forms:
            names += [media_type.partition("/")[0] + "/*", "*/*"]
        for name in names:
            places = [place for place, each in enumerate(ranges) if each.value == name]
            if places:
                if weight := max(ranges[place].weight for place in places):
                    found.append((-weight, places[0], form))
                break
    # Stable, and so in the order of the forms where one range allows several.
    return [form for *_, form in sorted(found, key=lambda each: each[:2])]


def _read(header: str) -> Iterator[Preference]:
    for element in _ELEMENTS.findall(header):
        value, *parameters = _PARAMETERS.findall(element) or [""]
        if value.strip():
            yield Preference(value.strip().lower(), _weight_of(parameters))


def _weight_of(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            weight = value.strip()
            return float(weight) if _WEIGHT.fullmatch(weight) else 0.0
    return 1.0
