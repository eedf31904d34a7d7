"""A folder that the replicas of a machine share: what one of them has fetched, all have.

It is `$RAYSERVE_CACHE`, else `~/.cache/rayserve-app`. It may be removed while nothing starts. When
something new is stored and all takes more than `$RAYSERVE_CACHE_MAX_GB`, else 20 GB, what no
process uses is removed, the least recently used first.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import IO, Final

from rayserve_app.errors import ConfigurationError, LoadError

logger = logging.getLogger(__name__)

ENVIRONMENT_VARIABLE: Final = "RAYSERVE_CACHE"

MAX_GB_VARIABLE: Final = "RAYSERVE_CACHE_MAX_GB"

_MAX_GB: Final = 20.0
"""Some tens of image models, and what a node's disk can spare."""

_POLL_S: Final = 0.05

_USE_SUFFIX: Final = ".used.lock"
"""Of the file that all users of an entry have locked, and whose age is that of its last use."""

_USE_PATTERNS: Final = tuple(f"{kind}/*{_USE_SUFFIX}" for kind in ("trees", "files/*", "packages"))
"""Where these files are; no deeper, for what is kept may hold such names itself."""

_held: Final[dict[Path, int]] = {}
"""The descriptors by which this process holds its entries, as long as it lives."""

_holding: Final = Lock()


def cache_directory() -> Path:
    """Return the folder, which need not exist."""
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(named or Path("~", ".cache", "rayserve-app")).expanduser().absolute()


def obtain(key: str, make: Callable[[Path], None], *, wait_s: float | None = None) -> Path:
    """Return the file or directory `key` of the cache, which `make` makes if it is missing.

    One thread or process makes it, the others wait. Nobody sees half of it: `make` gets another
    path, whose content moves to its place when `make` returns and is removed when it raises; what
    a maker that was killed has left, the next one removes.

    What this returns stays as long as this process lives, and the forks that it has by then.

    Args:
        key: a relative path.
        wait_s: how long to wait for another maker; for ever if None.

    Raises:
        TimeoutError: another one is still at work after `wait_s`.
        LoadError: the cache cannot be written.
        ConfigurationError: the environment variable of its size is no number.
    """
    target = cache_directory() / key
    most_bytes = _most_bytes()
    _hold(target)  # before it is looked for, so that nobody removes it in between
    if target.exists():
        return target
    with locked(key, wait_s=wait_s):
        if not target.exists():
            partial = _partial(target)
            remove(partial)
            try:
                make(partial)
                partial.replace(target)
            finally:
                remove(partial)
    _prune(most_bytes)
    return target


def hold(key: str) -> bool:
    """Keep what lies at `key` from being removed as long as this process lives.

    Returns: whether anything lies there.
    """
    target = cache_directory() / key
    if not target.exists():
        return False
    _hold(target)
    return target.exists()


@contextmanager
def locked(key: str, *, wait_s: float | None = None) -> Iterator[Path]:
    """Give the path of `key` in the cache while no other thread or process has it.

    Raises:
        TimeoutError: another one still has it after `wait_s`.
        LoadError: the cache cannot be written.
    """
    path = cache_directory() / key
    with _open_lock(path) as file:
        if wait_s is None:
            fcntl.flock(file, fcntl.LOCK_EX)
        else:
            _acquire(file, wait_s)
        yield path


def remove(path: Path) -> None:
    """Remove a file or a directory, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _hold(target: Path) -> None:
    use = target.with_name(target.name + _USE_SUFFIX)
    try:
        use.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(use, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        return  # what cannot be written is pruned by nobody, and `locked` tells who has to write
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    os.utime(descriptor)
    with _holding:
        former = _held.get(use)
        _held[use] = descriptor
    if former is not None:
        os.close(former)


def _most_bytes() -> float:
    told = os.environ.get(MAX_GB_VARIABLE)
    try:
        most_gb = _MAX_GB if told is None else float(told)
    except ValueError:
        most_gb = math.nan
    if not most_gb >= 0:
        raise ConfigurationError(
            "The size of the cache is not a number",
            expected="gigabytes, 0 or more",
            got=repr(told),
            path=MAX_GB_VARIABLE,
        )
    return most_gb * 1e9


def _prune(most_bytes: float) -> None:
    """Remove entries that nobody holds, the least recently used first, until the rest fits."""
    try:
        uses = [use for pattern in _USE_PATTERNS for use in cache_directory().glob(pattern)]
        entries = sorted((use.stat().st_mtime, use, _size_bytes(use)) for use in uses)
        excess = sum(size for *_, size in entries) - most_bytes
        for _, use, size in entries:
            if excess <= 0:
                return
            if size and _remove_unused(use):
                excess -= size
    except OSError as exc:  # what was stored is there all the same
        logger.warning("The cache in `%s` cannot be pruned: %s", cache_directory(), exc)


def _remove_unused(use: Path) -> bool:
    """Remove the entry of a use file unless somebody holds it; return whether it was removed."""
    target, partial = _places(use)
    with use.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        remove(partial)
        if target.exists():
            target.rename(partial)  # who is killed while removing it leaves no half of it
            remove(partial)
    return True


def _size_bytes(use: Path) -> int:
    """Return the bytes of an entry, and of what a killed maker has left; others may be removing
    it."""
    total = 0
    for place in _places(use):
        below = (
            os.path.join(folder, name) for folder, _, names in os.walk(place) for name in names
        )
        for path in [place] if place.is_file() else below:
            with suppress(OSError):
                total += os.lstat(path).st_size
    return total


def _places(use: Path) -> tuple[Path, Path]:
    target = use.with_name(use.name.removesuffix(_USE_SUFFIX))
    return target, _partial(target)


def _partial(target: Path) -> Path:
    return target.with_name(f"{target.name}.partial")


def _open_lock(path: Path) -> IO[str]:
    try:
        # Models and code that replicas load: nobody else's business, and nobody else's to change.
        cache_directory().mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.with_name(f"{path.name}.lock").open("w")
    except OSError as exc:
        raise LoadError(
            f"The cache in `{cache_directory()}` cannot be written",
            got=exc.strerror,
            remedy=f"Set {ENVIRONMENT_VARIABLE} to a folder that can",
        ) from exc


def _acquire(file: IO[str], wait_s: float) -> None:
    give_up_at = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"{file.name} is still locked after {wait_s:g} s") from None
            time.sleep(_POLL_S)
        else:
            return
