"""Where files that clients name may lie: below a prefix of a bucket, or below a directory.

A location is compared with the place part by part, as it is written: nothing is decoded, joined or
looked up that is not below the place. What follows the place in it is a sequence of names, of which
none is empty, `.` or `..`. Object storage is reached through fsspec, as in remote.py. Directories
are walked from the place down without following any link, which `open` of a checked path cannot
promise.
"""

from __future__ import annotations

import os
import stat
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Final

from rayserve_app.artifacts.remote import open_filesystem
from rayserve_app.errors import (
    ConfigurationError,
    InvalidRequest,
    RequestTooLarge,
    ServingError,
)
from rayserve_app.settings.locations import split
from rayserve_app.types import Buffer

CONTENT_TYPE: Final = {"s3": "ContentType", "gs": "content_type"}
"""What fsspec's filesystems call an object's content type."""

_OPEN: Final = os.O_CLOEXEC | os.O_NOFOLLOW


class Place(ABC):
    """A place that the YAML names. Its calls block."""

    def __init__(self, root: str) -> None:
        self._root = root

    def find(self, location: str) -> tuple[str, ...] | None:
        """Return the names that follow the place in a location; None if it does not begin with it.

        Raises:
            InvalidRequest: one of them is no name.
        """
        if not location.startswith(self._root + "/"):
            return None
        return split(location[len(self._root) + 1 :])

    def location(self, names: Sequence[str]) -> str:
        """Return the URL of a file here."""
        return "/".join((self._root, *names))

    @abstractmethod
    def read(self, names: Sequence[str], max_bytes: int) -> Buffer:
        """Return a file's content.

        Raises:
            InvalidRequest: there is no such file.
            RequestTooLarge: more than `max_bytes`; no more than that is read.
        """

    @abstractmethod
    def write(
        self, names: Sequence[str], buffers: Sequence[Buffer], content_type: str | None = None
    ) -> None:
        """Write a file, whole or not at all; one of that name is replaced.

        Args:
            content_type: kept with an object of a bucket; files of a directory have none.
        Raises:
            ConfigurationError: the place does not take it.
        """


class Directory(Place):
    """A directory of this machine; locations are `file:///...`, or absolute paths."""

    def __init__(self, path: str) -> None:
        super().__init__(f"file://{os.path.normpath(path)}")
        self._path = os.path.normpath(path)

    def find(self, location: str) -> tuple[str, ...] | None:
        return super().find(f"file://{location}" if location.startswith("/") else location)

    def read(self, names: Sequence[str], max_bytes: int) -> Buffer:
        place = self.location(names)
        try:
            with self._folder(names[:-1]) as folder:
                # Without waiting for somebody to write to it, should it be a pipe.
                file = os.open(names[-1], os.O_RDONLY | os.O_NONBLOCK | _OPEN, dir_fd=folder)
            with open(file, "rb") as stream:
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    raise InvalidRequest(f"`{place}` is no file")
                content = stream.read(max_bytes + 1)
        except OSError as exc:
            raise InvalidRequest(f"`{place}` cannot be read", got=exc.strerror) from exc
        _check_size(place, len(content), max_bytes)
        return content

    def write(
        self, names: Sequence[str], buffers: Sequence[Buffer], content_type: str | None = None
    ) -> None:
        scratch = f".{uuid.uuid4().hex}.partial"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN
        try:
            with self._folder(names[:-1], is_made=True) as folder:
                file = os.open(scratch, flags, 0o666, dir_fd=folder)
                try:
                    with open(file, "wb") as stream:
                        stream.writelines(buffers)
                        stream.flush()
                        os.fsync(file)
                    os.rename(scratch, names[-1], src_dir_fd=folder, dst_dir_fd=folder)
                except BaseException:
                    os.unlink(scratch, dir_fd=folder)
                    raise
        except OSError as exc:
            raise _not_written(self.location(names), exc.strerror) from exc

    @contextmanager
    def _folder(self, names: Sequence[str], *, is_made: bool = False) -> Iterator[int]:
        """Open the folder that the names lead to; of the place itself links may be part."""
        folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in names:
                if is_made:
                    _make_folder(name, folder)
                below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | _OPEN, dir_fd=folder)
                os.close(folder)
                folder = below
            yield folder
        finally:
            os.close(folder)


class Bucket(Place):
    """A bucket of object storage, or what is below a prefix of it."""

    def __init__(self, url: str) -> None:
        super().__init__(url.rstrip("/"))
        self._scheme = url.partition(":")[0]

    def read(self, names: Sequence[str], max_bytes: int) -> Buffer:
        place = self.location(names)
        key = place.partition("://")[2]
        try:
            found = self._filesystem.info(key)
            _check_object(place, found, max_bytes)
            size = found["size"]
            # The object may be another by now, but no more of it is read.
            return bytes(self._filesystem.cat_file(key, start=0, end=size)) if size else b""
        except ServingError:
            raise
        except Exception as exc:  # each filesystem has errors of its own
            raise InvalidRequest(f"`{place}` cannot be read", got=_reason(exc)) from exc

    def write(
        self, names: Sequence[str], buffers: Sequence[Buffer], content_type: str | None = None
    ) -> None:
        place = self.location(names)
        # Object storage takes a header of ASCII alone.
        kind = content_type if content_type and content_type.isascii() else None
        told = {CONTENT_TYPE[self._scheme]: kind} if kind else {}
        try:
            # One request, or a multipart upload, which becomes visible when it is complete.
            self._filesystem.pipe_file(place.partition("://")[2], b"".join(buffers), **told)
        except ServingError:
            raise
        except Exception as exc:
            raise _not_written(place, _reason(exc)) from exc

    @cached_property
    def _filesystem(self) -> Any:
        return open_filesystem(self._scheme, self._root)


def open_place(declared: str) -> Place:
    """Return the place that a setting names; `check_place` has seen it."""
    return Directory(declared) if declared.startswith("/") else Bucket(declared)


def _make_folder(name: str, folder: int) -> None:
    try:
        os.mkdir(name, dir_fd=folder)
    except FileExistsError:
        return


def _check_size(place: str, size: int, most: int) -> None:
    if size > most:
        raise RequestTooLarge(f"`{place}` is too large", expected=f"at most {most} bytes")


def _check_object(place: str, found: Mapping[str, Any], most: int) -> None:
    if found["type"] != "file":  # a prefix of other objects
        raise InvalidRequest(f"`{place}` is no file")
    _check_size(place, found["size"], most)


def _not_written(place: str, reason: str | None) -> ConfigurationError:
    return ConfigurationError(f"`{place}` cannot be written", got=reason)


def _reason(exc: BaseException) -> str:
    if isinstance(exc, FileNotFoundError):
        return "no such file there"
    return f"{type(exc).__name__}: {' '.join(str(exc).split())}"[:300]
