"""The log of what models raise: whoever sends what a model cannot take must not fill a disk."""

from __future__ import annotations

import logging
from time import monotonic
from typing import Final

logger = logging.getLogger(__name__)

PERIOD_S: Final = 1.0
"""Of the failures in each only the first is logged."""


class FailureLog:
    """Logs with what one model fails; may be used from any thread."""

    def __init__(self) -> None:
        self._next_at = 0.0
        self._left_out = 0

    def add(self, error: BaseException, count: int) -> None:
        """Log an error that a model has raised on so many items, unless another was just now."""
        now = monotonic()
        if now < self._next_at:
            self._left_out += 1
            return
        others = f", and on {self._left_out} others before it" if self._left_out else ""
        self._next_at, self._left_out = now + PERIOD_S, 0
        logger.error("The model failed on a batch of %d%s", count, others, exc_info=error)
