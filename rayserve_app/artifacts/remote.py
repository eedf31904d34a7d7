"""Files of object storage and of the web, read by fsspec.

fsspec's own configuration holds: credentials are found where their owners' command-line tools find
them, other settings in `FSSPEC_*` (an S3-compatible server: `FSSPEC_S3_ENDPOINT_URL`; a public
bucket: `FSSPEC_S3_ANON=true`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import urlsplit

from rayserve_app.artifacts.archives import MAX_BYTES, MAX_FILES
from rayserve_app.errors import ConfigurationError, LoadError, MissingDependency, ServingError

EXTRAS: Final[Mapping[str, str]] = {"s3": "s3", "gs": "gcs", "https": "http", "http": "http"}
"""The schemes that are known, and the extra of this project that each needs."""

CONNECT_TIMEOUT_S: Final = 10

READ_TIMEOUT_S: Final = 30
"""The longest pause within an answer; a download as a whole may take any time."""

_VERSION_KEYS: Final = (
    *("ETag", "etag", "VersionId", "generation", "md5Hash", "Content-MD5", "Digest"),
    *("LastModified", "Last-Modified", "last_modified", "updated", "mtime"),
)
"""What fsspec's filesystems tell of a file, one or the other of which changes with its content."""


_LONGEST_REASON: Final = 300


def scheme_of(location: str) -> str | None:
    """Return a location's scheme, or None for a local path."""
    found = re.match("([A-Za-z][A-Za-z0-9+.-]*):/", location)
    return found[1].lower() if found else None


class Remote:
    """What a URL names. Nothing is asked of its server before `look`."""

    def __init__(self, location: str) -> None:
        """Take a URL apart.

        Raises:
            ConfigurationError: its scheme is not known, or is `http` and its host is not this
                machine: nothing would protect the model on its way.
        """
        self.scheme = scheme_of(location) or ""
        url = urlsplit(location)
        # A query may hold a signature, and what precedes the host a password.
        self.shown = f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"
        """The URL as errors name it."""
        self.name = PurePosixPath(url.path).name[-100:].replace("..", ".") or "file"
        """The last part of its path, cut to what a file may be called."""
        self._location = location
        if self.scheme not in EXTRAS or not location[len(self.scheme) :].startswith("://"):
            raise ConfigurationError(
                f"`{self.shown}` has no scheme that is known",
                expected="a local path, `s3://`, `gs://` or `https://`",
                got=f"`{self.scheme}:`",
            )
        self._check_transport(location)

    def look(self) -> Listing:
        """Ask the server what is there.

        Raises:
            LoadError: nothing is, it is empty or too large, or the server does not say.
            MissingDependency: the scheme's package is not installed.
        """
        with self.explained():
            filesystem = self._filesystem()
            path = filesystem._strip_protocol(self._location)
            info = filesystem.info(path)
            if "url" in info:
                self._check_transport(info["url"])
            if info["type"] != "directory":
                return Listing(self, filesystem, path, {"": info}, is_directory=False)
            prefix = path.rstrip("/") + "/"
            files = {
                name.removeprefix(prefix): info
                for name, info in filesystem.find(path, detail=True).items()
                # Object stores' consoles mark folders by empty objects whose names end so.
                if not name.endswith("/") and info["type"] == "file"
            }
            return Listing(self, filesystem, path, files, is_directory=True)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn whatever a filesystem raises into a LoadError: each has errors of its own."""
        try:
            yield
        except ServingError:
            raise
        except Exception as exc:
            raise LoadError(f"`{self.shown}` cannot be fetched", got=_reason(exc)) from exc

    def _check_transport(self, location: str) -> None:
        url = urlsplit(location)
        if url.scheme == "http" and not _is_this_machine(url.hostname or ""):
            raise ConfigurationError(
                f"`{self.shown}` is not protected on its way", expected="`https://`", got="`http:`"
            )

    def _filesystem(self) -> Any:
        return open_filesystem(self.scheme, self.shown)


def open_filesystem(scheme: str, shown: str) -> Any:
    """Return fsspec's filesystem of one of the known schemes, for what errors name like this.

    Raises:
        MissingDependency: its package is not installed.
    """
    try:
        import fsspec

        # gcsfs reads it when it is imported. It would ask for a bucket's kind by gRPC first, a
        # minute long where gRPC cannot pass; only zonal buckets cannot be read without.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        options = _web_options() if scheme in ("http", "https") else {}
        if scheme == "s3":
            options["config_kwargs"] = {
                "connect_timeout": CONNECT_TIMEOUT_S,
                "read_timeout": READ_TIMEOUT_S,
            }
        return fsspec.filesystem(
            scheme, skip_instance_cache=True, use_listings_cache=False, **options
        )
    except ImportError as exc:
        raise MissingDependency(
            f"`{shown}` needs a package: {exc}",
            remedy=f'pip install "rayserve-app[{EXTRAS[scheme]}]"',
        ) from exc


class Listing:
    """The files that a server says are there."""

    def __init__(
        self,
        remote: Remote,
        filesystem: Any,
        path: str,
        files: Mapping[str, Mapping[str, Any]],
        *,
        is_directory: bool,
    ) -> None:
        self._remote = remote
        self._filesystem = filesystem
        self._path = path
        self._files = files
        self.is_directory = is_directory
        self._check_size()

    @property
    def version(self) -> str | None:
        """What is another text when the content is; None if the server tells nothing of it."""
        told: dict[str, dict[str, Any]] = {}
        for name, info in self._files.items():
            told[name] = {key: info[key] for key in _VERSION_KEYS if info.get(key)}
            if not told[name]:
                return None
            told[name]["size"] = info.get("size")
        return json.dumps(told, sort_keys=True, default=str)

    def download(self, target: Path) -> None:
        """Write the file, or the directory with all that is below it, to `target`.

        Raises:
            LoadError: the server fails, or sends more than it may.
        """
        with self._remote.explained():
            if not self.is_directory:
                self._filesystem.get_file(self._path, str(target), callback=self._limit())
                if target.stat().st_size == 0:
                    raise LoadError(f"`{self._remote.shown}` is empty")
                return
            sources = [f"{self._path.rstrip('/')}/{name}" for name in self._files]
            targets = [target / name for name in self._files]
            for path in targets:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._filesystem.get(sources, [str(path) for path in targets])

    def _check_size(self) -> None:
        for name in self._files:
            parts = PurePosixPath(name).parts
            if name.startswith("/") or ".." in parts or "//" in name:
                raise LoadError(f"`{self._remote.shown}` holds a name that is not a path: {name!r}")
        if len(self._files) > MAX_FILES:
            raise LoadError(
                f"`{self._remote.shown}` holds too many files",
                expected=f"at most {MAX_FILES:,}",
                got=f"{len(self._files):,}",
            )
        sizes = [info.get("size") for info in self._files.values()]
        if not any(size is None or size > 0 for size in sizes):
            raise LoadError(f"`{self._remote.shown}` is empty")
        self._check_bytes(sum(size or 0 for size in sizes))

    def _check_bytes(self, total: int) -> None:
        if total > MAX_BYTES:
            raise LoadError(
                f"`{self._remote.shown}` is too large", expected=f"at most {MAX_BYTES:,} bytes"
            )

    def _limit(self) -> Any:
        """Return what fsspec tells of its progress: a server need not have told the size."""
        from fsspec.callbacks import Callback

        return Callback(hooks={"limit": lambda size, value, **_: self._check_bytes(value)})


def _web_options() -> dict[str, Any]:
    import aiohttp

    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S
    )
    # The environment's proxies, as every other client takes them.
    return {"client_kwargs": {"timeout": timeout, "trust_env": True}}


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _reason(exc: BaseException) -> str:
    """Return what went wrong first, in one line, without the query of a URL."""
    while exc.__cause__ is not None:
        exc = exc.__cause__
    if isinstance(exc, FileNotFoundError) or getattr(exc, "status", None) == 404:
        return "no such file or directory there"
    told = f"{type(exc).__name__}: {' '.join(str(exc).split())}".rstrip(": ")
    return re.sub(r"\?[^\s'\"]+", "?...", told)[:_LONGEST_REASON]
