"""A folder that the replicas of a machine share: what one of them has fetched, all have.

It is `$RAYSERVE_CACHE`, else `~/.cache/rayserve-app`. It may be removed while nothing starts.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from rayserve_app.errors import LoadError

ENVIRONMENT_VARIABLE: Final = "RAYSERVE_CACHE"

_POLL_S: Final = 0.05


def cache_directory() -> Path:
    """Return the folder, which need not exist."""
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(named or Path("~", ".cache", "rayserve-app")).expanduser().absolute()


def obtain(key: str, make: Callable[[Path], None], *, wait_s: float | None = None) -> Path:
    """Return the file or directory `key` of the cache, which `make` makes if it is missing.

    One thread or process makes it, the others wait. Nobody sees half of it: `make` gets another
    path, whose content moves to its place when `make` returns and is removed when it raises; what
    a maker that was killed has left, the next one removes.

    Args:
        key: a relative path.
        wait_s: how long to wait for another maker; for ever if None.

    Raises:
        TimeoutError: another one is still at work after `wait_s`.
        LoadError: the cache cannot be written.
    """
    target = cache_directory() / key
    if target.exists():
        return target
    with locked(key, wait_s=wait_s):
        if not target.exists():
            partial = target.with_name(f"{target.name}.partial")
            remove(partial)
            try:
                make(partial)
                partial.replace(target)
            finally:
                remove(partial)
    return target


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
