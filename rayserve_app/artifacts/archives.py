"""Safe extraction of tar and zip archives: what is not plain files in folders is refused.

Not with `tarfile.data_filter`: it mends names silently, and before Python 3.11.13 a chain of links
leads past it (CVE-2025-4517). Here links are made last, so that nothing is written through one.
"""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, Protocol

from rayserve_app.errors import LoadError

SUFFIXES: Final = (".tar", ".tar.gz", ".tgz", ".zip")
"""What a name must end with to be taken for an archive: `.npz`, `.pt` and `.keras` are zips, too,
but frameworks read them as they are."""

MAX_BYTES: Final = 16 << 30
"""Some ten times the largest image models, and what a node's disk can spare."""

MAX_FILES: Final = 100_000
"""Models have some hundred; more would use up a file system's inodes."""

MAX_RATIO: Final = 100
"""Weights shrink to a half at best, texts to a tenth; what shrinks more is zeros, or made to do
harm."""

FREE_BYTES: Final = 64 << 20
"""So much may come out of any archive, whatever its ratio: small models of zeros are no harm."""

_CHUNK_BYTES: Final = 1 << 16
"""Also the longest header of a tar: tarfile reads a pax header whole, and before Python 3.11.10
in quadratic time (CVE-2024-6232)."""


def is_archive(name: str) -> bool:
    """Whether a file of this name is taken for an archive."""
    return name.lower().endswith(SUFFIXES)


def extract(archive: Path, directory: Path, *, name: str) -> None:
    """Extract an archive into a directory, which is made.

    Files get no mode bits but for reading. A link must lead to a file or folder of the archive,
    not by way of another link.

    Args:
        name: what errors call the archive.

    Raises:
        LoadError: it is no archive, cut short, corrupt, encrypted, empty, too large, or holds a
            name or a kind of entry that is not allowed. What was extracted until then stays.
    """
    try:
        tree = _Tree(directory, archive.stat().st_size)
        with archive.open("rb") as file:
            _read(file, tree)
        tree.finish()
    except LoadError as exc:
        raise LoadError(f"The archive `{name}` is refused", got=str(exc)) from exc
    except Exception as exc:  # tarfile and zipfile let through whatever damage makes them trip on
        is_sound = isinstance(exc, OSError | NotImplementedError)
        is_sound &= not isinstance(exc, gzip.BadGzipFile)
        fault = "cannot be extracted" if is_sound else "is cut short or corrupt"
        raise LoadError(f"The archive `{name}` {fault}", got=_first_line(exc)) from exc


def _read(file: IO[bytes], tree: _Tree) -> None:
    start = file.read(tarfile.BLOCKSIZE)
    file.seek(0)
    if start.startswith((b"PK\3\4", b"PK\5\6")):
        _read_zip(file, tree)
    elif start.startswith(b"\x1f\x8b"):
        with gzip.open(file) as unpacked:
            _read_tar(unpacked, tree)
    elif start[257:262] == b"ustar":
        _read_tar(file, tree)
    else:
        raise LoadError("Not an archive", expected="a tar, with or without gzip, or a zip")


def _read_tar(file: _Readable, tree: _Tree) -> None:
    stream = _Forward(file, tree.budget())
    untyped: Any = stream  # has all of a file that reading takes
    with tarfile.TarFile(fileobj=untyped) as tar:
        for member in tar:
            if member.isdir():
                tree.add_directory(member.name)
            elif member.isreg():
                content = tar.extractfile(member)
                if content is not None:
                    tree.add_file(member.name, content)
            elif member.issym():
                tree.add_link(member.name, member.linkname)
            elif member.islnk():
                tree.add_hard_link(member.name, member.linkname)
            else:
                raise LoadError(f"{member.name!r} is neither file, folder nor link")
    # tarfile ends in silence at anything that is no header.
    if stream.latest != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("no end marker where the members end")
    while stream.read(_CHUNK_BYTES):  # to the checksum of gzip
        pass


def _read_zip(file: IO[bytes], tree: _Tree) -> None:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.flag_bits & 1:
                raise LoadError(f"{info.filename!r} is encrypted")
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir():
                tree.add_directory(info.filename)
            elif stat.S_ISLNK(kind):
                with archive.open(info) as content:
                    tree.add_link(info.filename, os.fsdecode(content.read(_CHUNK_BYTES)))
            elif kind in (0, stat.S_IFREG):  # 0: not made on Unix
                with archive.open(info) as content:
                    tree.add_file(info.filename, content)
            else:
                raise LoadError(f"{info.filename!r} is neither file, folder nor link")


class _Readable(Protocol):
    def read(self, size: int = ..., /) -> bytes: ...


class _Tree:
    """The extracted files, as they grow."""

    def __init__(self, root: Path, archive_bytes: int) -> None:
        root.mkdir()
        self._root = root
        self._archive_bytes = archive_bytes
        self._spend = self.budget()
        self._entries = 0
        self._files = 0
        self._links: list[tuple[Path, str]] = []
        self._hard_links: list[tuple[Path, str]] = []

    def budget(self) -> Callable[[int], None]:
        """Return what counts bytes and raises LoadError when they are too many: bytes that came
        out, not sizes that the archive states."""
        most = min(MAX_BYTES, max(FREE_BYTES, MAX_RATIO * self._archive_bytes))
        total = 0

        def spend(size: int) -> None:
            nonlocal total
            total += size
            if total > most:
                raise LoadError(
                    "More comes out of the archive than is allowed",
                    expected=f"at most {most:,} bytes from {self._archive_bytes:,}",
                )

        return spend

    def add_directory(self, name: str) -> None:
        self._place(name).mkdir(parents=True, exist_ok=True)

    def add_file(self, name: str, content: _Readable) -> None:
        path = self._new(name)
        self._files += 1
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
        except FileExistsError:
            raise LoadError(f"{name!r} is in it twice") from None
        with open(descriptor, "wb") as file:
            while chunk := content.read(_CHUNK_BYTES):
                self._spend(len(chunk))
                file.write(chunk)

    def add_link(self, name: str, target: str) -> None:
        self._links.append((self._new(name), target))

    def add_hard_link(self, name: str, target: str) -> None:
        self._hard_links.append((self._new(name), target))

    def finish(self) -> None:
        for path, target in self._hard_links:
            os.link(self._place(target), path)
            self._files += 1
        for path, target in self._links:
            path.symlink_to(target)
        root = self._root.resolve()
        for path, target in self._links:
            where = os.path.normpath(root / path.relative_to(self._root).parent / target)
            if not Path(where).is_relative_to(root) or os.path.isabs(target):
                raise LoadError(f"The link {path.name!r} to {target!r} leads out of the archive")
            if os.path.realpath(path) != where or not os.path.exists(where):
                raise LoadError(
                    f"The link {path.name!r} to {target!r} leads to another link or to nothing"
                )
        if not self._files:
            raise LoadError("No file is in it")

    def _new(self, name: str) -> Path:
        path = self._place(name)
        if path == self._root:
            raise LoadError(f"{name!r} is not a file name")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _place(self, name: str) -> Path:
        """Return where an entry lies; parents are real folders, for links come last."""
        self._entries += 1
        if self._entries > MAX_FILES:
            raise LoadError("Too many entries", expected=f"at most {MAX_FILES:,}")
        parts = PurePosixPath(name).parts
        if not name or name.startswith("/") or ".." in parts or "\0" in name:
            raise LoadError(f"The name {name!r} leads out of the archive")
        return self._root.joinpath(*parts)


class _Forward:
    """A stream that tarfile takes for a file: it seeks forwards only, but for the last byte, and
    counts what it reads, so that members that are skipped count as well."""

    def __init__(self, stream: _Readable, spend: Callable[[int], None]) -> None:
        self._stream = stream
        self._spend = spend
        self._position = 0
        self._is_back = False
        self.latest = b""
        """What was read last."""

    def tell(self) -> int:
        return self._position - self._is_back

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        # tarfile reads a member's last byte again, to see that it is there.
        self._is_back = position == self._position - 1 and bool(self.latest)
        if position < self._position and not self._is_back:
            raise tarfile.ReadError("a member lies before its header")
        while position > self._position:
            if not self._take(min(position - self._position, _CHUNK_BYTES)):
                break
        return self.tell()

    def read(self, size: int) -> bytes:
        if size > _CHUNK_BYTES:
            raise LoadError("A header is too long", expected=f"at most {_CHUNK_BYTES:,} bytes")
        if self._is_back:
            self._is_back = False
            return self.latest[-1:] + (self._take(size - 1) if size > 1 else b"")
        return self._take(size)

    def _take(self, size: int) -> bytes:
        self.latest = self._stream.read(size)
        self._position += len(self.latest)
        self._spend(len(self.latest))
        return self.latest


def _first_line(exc: BaseException) -> str:
    # An OSError's own text names a path within the cache.
    told = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return f"{type(exc).__name__}: {(told.splitlines() or [''])[0]}".rstrip(": ")
