"""Where a model's files come from: this machine, object storage or the web."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rayserve_app.artifacts import archives, cache
from rayserve_app.artifacts.archives import is_archive
from rayserve_app.artifacts.remote import Listing, Remote, scheme_of
from rayserve_app.errors import ConfigurationError, LoadError


def fetch(location: str, *, sha256: str | None = None) -> Path:
    """Return the local file or directory of what lies at a location.

    An archive (`.tar`, `.tar.gz`, `.tgz`, `.zip`, and nothing else) is extracted; its root is
    returned, even where all lies in one folder: a SageMaker `model.tar.gz` has its files at the
    root. Any other local file or directory is returned as it is.

    What is remote or extracted lies in the cache under the checksum of its content, for all
    replicas of the machine to read. A remote file is downloaded again only if its server tells of
    another version, or tells nothing of versions; with `sha256` the server is not even asked for
    what is in the cache.

    Args:
        location: a local path, `s3://bucket/key` or `gs://bucket/key` (a file, or a prefix for all
            below it), or `https://host/path` (a file; `http://` from this machine itself only).
        sha256: checksum of the file or archive, 64 lower-case hex digits.

    Raises:
        LoadError: missing, empty, unreachable, forbidden, another content than `sha256` says, too
            large, or an archive that is corrupt or not safe to extract.
        ConfigurationError: a scheme that is not known, or `sha256` for a directory.
        MissingDependency: the scheme needs an extra that is not installed.
    """
    if scheme_of(location) is not None:
        return _fetch_remote(Remote(location), location, sha256)
    path = Path(location).expanduser()
    try:
        return _fetch_local(path, sha256)
    except OSError as exc:
        raise LoadError(f"`{path.absolute()}` cannot be read", got=exc.strerror) from exc


def _fetch_local(path: Path, sha256: str | None) -> Path:
    where = str(path.absolute())
    if path.is_dir():
        _refuse_checksum(sha256, where)
        if next(path.iterdir(), None) is None:
            raise LoadError(f"The directory `{where}` is empty")
        return path
    if not path.exists():
        raise LoadError(f"No such file or directory: {where}")
    if not path.is_file():
        raise LoadError(f"Neither a file nor a directory: {where}")
    if path.stat().st_size == 0:
        raise LoadError(f"The file `{where}` is empty")
    if sha256 is None and not is_archive(path.name):
        return path
    digest = _digest(path)
    _check_digest(digest, sha256, where)
    if not is_archive(path.name):
        return path
    return cache.obtain(_key(path.name, digest), partial(archives.extract, path, name=where))


class _Record(NamedTuple):
    """What a URL was when it was downloaded last."""

    version: str | None
    digest: str
    key: str
    """Where in the cache it lies."""

    def is_of(self, listing: Listing) -> bool:
        """Whether the server told of the same version again."""
        return self.version is not None and self.version == listing.version


def _fetch_remote(remote: Remote, location: str, sha256: str | None) -> Path:
    root = cache.cache_directory()
    if sha256 is not None and cache.hold(_key(remote.name, sha256)):
        return root / _key(remote.name, sha256)
    with cache.locked(f"remote/{hashlib.sha256(location.encode()).hexdigest()}") as file:
        listing = remote.look()
        if listing.is_directory:
            _refuse_checksum(sha256, remote.shown)
        record = _read_record(file)
        if record is None or not record.is_of(listing) or not cache.hold(record.key):
            record = _download(remote, listing, file.with_suffix(".partial"), sha256)
            file.write_text(json.dumps(record))
        _check_digest(record.digest, sha256, remote.shown)
        return root / record.key


def _download(remote: Remote, listing: Listing, scratch: Path, sha256: str | None) -> _Record:
    cache.remove(scratch)  # of one who was killed
    try:
        listing.download(scratch)
        if listing.is_directory:
            digest = _digest_of_tree(scratch)
            key = f"trees/{digest}"
        else:
            digest = _digest(scratch)
            key = _key(remote.name, digest)
        _check_digest(digest, sha256, remote.shown)
        cache.obtain(key, partial(_keep, remote, scratch))
    finally:
        cache.remove(scratch)
    return _Record(listing.version, digest, key)


def _keep(remote: Remote, scratch: Path, target: Path) -> None:
    if scratch.is_file() and is_archive(remote.name):
        archives.extract(scratch, target, name=remote.shown)
    else:
        scratch.rename(target)


def _key(name: str, digest: str) -> str:
    return f"trees/{digest}" if is_archive(name) else f"files/{digest}/{name}"


def _read_record(file: Path) -> _Record | None:
    try:
        return _Record(*json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):  # none yet, or half of one
        return None


def _refuse_checksum(sha256: str | None, where: str) -> None:
    if sha256 is not None:
        raise ConfigurationError(
            f"`{where}` is a directory: `sha256` is for files and archives",
            path="args.model.sha256",
        )


def _check_digest(digest: str, sha256: str | None, where: str) -> None:
    if sha256 is not None and digest != sha256:
        raise LoadError(f"Checksum mismatch for `{where}`", expected=sha256, got=digest)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of_tree(root: Path) -> str:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    told = "".join(f"{_digest(path)}  {path.relative_to(root)}\n" for path in files)
    return hashlib.sha256(told.encode(errors="surrogateescape")).hexdigest()
