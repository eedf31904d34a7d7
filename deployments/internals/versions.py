"""For which versions of Ray and uvicorn their private names are known, and the one warning where
they are not."""

from __future__ import annotations

import logging
from typing import Final

logger = logging.getLogger(__name__)

TESTED: Final = frozenset({("2.60.0", "0.54.0")})
"""Pairs of versions, of Ray and of uvicorn, with which the tests of this room passed."""


class NotAsKnown(Exception):
    """A private name is missing, or is not what it was in the versions of TESTED."""


def check_versions() -> None:
    """Check that the two installed versions were tested together.

    Raises:
        NotAsKnown: they were not.
    """
    import ray
    import uvicorn

    pair = tuple(getattr(module, "__version__", "?") for module in (ray, uvicorn))
    if pair not in TESTED:
        raise NotAsKnown("Ray {} with uvicorn {} was not tested".format(*pair))


class Warner:
    """Says once in a process that requests take Serve's own way."""

    def __init__(self) -> None:
        self._has_warned = False

    def warn(self, reason: str | Exception) -> None:
        """Warn, unless there was a warning: where one name is missing others are, too."""
        level = logging.INFO if self._has_warned else logging.WARNING
        self._has_warned = True
        if isinstance(reason, Exception) and not isinstance(reason, NotAsKnown):
            reason = f"{type(reason).__name__}: {reason}"
        logger.log(level, "Requests take Serve's own way, which is slower: %s", reason)


warn: Final = Warner().warn
