"""What PyTorch's and MXNet's files have in common: one is chosen in a directory, and what is often
taken for one is told by its first bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from rayserve_app.errors import LoadError

PATH: Final = "args.model.path"

_KINDS: Final = {
    b"PK\3\4": "a zip file, as PyTorch and numpy write it",
    b"\x89HDF": "HDF5, as Keras writes it",
    b"\x12\x01\0\0": "parameters of MXNet",
    b"\x80": "a pickle",
    b"{": "JSON",
}


def find_file(path: Path, *suffixes: str) -> Path:
    """Return the one file with such a suffix in a directory, or the path itself if it is a file.

    Raises:
        LoadError: a directory holds none, or several.
    """
    if not path.is_dir():
        return path
    names = sorted(entry.name for entry in path.iterdir())
    found = [name for name in names if name.endswith(suffixes)]
    if len(found) != 1:
        raise LoadError(
            f"No model file to choose in `{path}`",
            expected=f"one file of {', '.join(suffixes)}",
            got=", ".join(names) or "nothing",
            path=PATH,
        )
    return path / found[0]


def kind_of(head: bytes) -> str:
    """Return what a file seems to be that begins so, and is not what was expected."""
    if not head:
        return "an empty file"
    kinds = (kind for start, kind in _KINDS.items() if head.startswith(start))
    return next(kinds, f"bytes that begin with {head[:8]!r}")
