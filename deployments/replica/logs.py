"""What a replica logs, and where to: Serve's own file for it, and standard error."""

from __future__ import annotations

import logging
from logging.handlers import MemoryHandler
from typing import Final

from ray.serve.context import ReplicaContext

from deployments.internals.replica_config import logging_config

SERVE_LOGGER_NAME: Final = "ray.serve"

OWN_LOGGER_NAMES: Final = ("rayserve_app", "deployments")


def set_up_logs(context: ReplicaContext) -> None:
    """Let whatever logs in this process do so where Serve does, and Serve no more than it must.

    Serve makes a record of each request and, where the YAML turns its access log off, then drops
    it, which costs 12 µs.
    """
    serve_logger = logging.getLogger(SERVE_LOGGER_NAME)
    for handler in serve_logger.handlers:
        # Not through its buffer, which is emptied when it is full or an error comes.
        own = handler.target if isinstance(handler, MemoryHandler) else handler
        logging.getLogger().addHandler(own or handler)
    config = logging_config(context)
    for name in OWN_LOGGER_NAMES:
        level = serve_logger.level if config is None else config.log_level
        logging.getLogger(name).setLevel(level)
    if config is not None and not config.enable_access_log:
        serve_logger.setLevel(max(serve_logger.getEffectiveLevel(), logging.WARNING))
