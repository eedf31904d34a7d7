"""Where files that clients name may lie, as the YAML declares it and as clients write it."""

from __future__ import annotations

import re
from typing import Final

from rayserve_app.errors import InvalidRequest

LONGEST_LOCATION: Final = 1024

SCHEMES: Final = ("s3", "gs")

# What a filesystem or a URL would take for something else than a part of a name.
_SPECIAL: Final = re.compile(r"[\x00-\x1f\x7f\\?#*\[\]]")


def check_place(declared: str) -> str:
    """Return a setting that names a place as it is.

    Raises:
        ValueError: neither `s3://bucket` or `gs://bucket`, with a prefix or without, nor the
            absolute path of a directory other than the root; or it could not be told in a header.
    """
    known = "|".join(SCHEMES)
    rest = re.fullmatch(rf"(?:(?:{known})://|/)([!-~]*[^/])/*", declared)
    try:
        split(rest[1] if rest else "")
    except InvalidRequest as exc:
        raise ValueError(
            "Neither `s3://bucket/prefix` or `gs://bucket/prefix`, nor a directory's absolute path"
        ) from exc
    return declared


def split(path: str) -> tuple[str, ...]:
    """Return the names of a relative path.

    Raises:
        InvalidRequest: one of them is empty, `.`, `..` or has a special character; or the path is
            too long.
    """
    names = tuple(path.split("/"))
    if len(path) > LONGEST_LOCATION:
        raise InvalidRequest("The path is too long", expected=f"at most {LONGEST_LOCATION}")
    for name in names:
        if name in ("", ".", "..") or _SPECIAL.search(name):
            raise InvalidRequest("Not a path of plain names", got=repr(path))
    return names
