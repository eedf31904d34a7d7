"""What a replica logs, and where to."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from logging.handlers import MemoryHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve._private.config import DeploymentConfig

from deployments.replica.logs import SERVE_LOGGER_NAME, set_up_logs


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """The file of a replica, to which Serve has its logger write through a buffer."""
    path = tmp_path / "replica.log"
    names = ("", SERVE_LOGGER_NAME, "rayserve_app", "deployments")
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logging.getLogger(SERVE_LOGGER_NAME).handlers = [MemoryHandler(1000, target=handler)]
    yield path
    handler.close()
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers = handlers


def context_of(logging_config: Any) -> Any:
    return SimpleNamespace(_deployment_config=DeploymentConfig(logging_config=logging_config))


def test_all_but_serve_writes_to_the_replicas_file_at_once(file: Path) -> None:
    set_up_logs(context_of(None))
    logging.getLogger("rayserve_app.inference.model").info("Not warmed up")
    logging.getLogger("a_model").warning("Old weights")
    logging.getLogger(SERVE_LOGGER_NAME).info("In the buffer")
    assert file.read_text() == "INFO Not warmed up\nWARNING Old weights\n"


def test_the_level_of_the_yaml_is_ours_too(file: Path) -> None:
    set_up_logs(context_of({"log_level": "ERROR"}))
    logging.getLogger("rayserve_app.artifacts.cache").warning("Cannot be pruned")
    logging.getLogger("rayserve_app.process.failure_log").error("The model failed")
    assert file.read_text() == "ERROR The model failed\n"


@pytest.mark.usefixtures("file")
@pytest.mark.parametrize(
    ("config", "level"),
    [
        (None, logging.INFO),
        ({"enable_access_log": True}, logging.INFO),
        ({"enable_access_log": False}, logging.WARNING),
        ({"enable_access_log": False, "log_level": "ERROR"}, logging.ERROR),
    ],
)
def test_an_access_log_that_is_off_costs_nothing(config: Any, level: int) -> None:
    """Serve sets its logger's level first, by the same configuration."""
    logger = logging.getLogger(SERVE_LOGGER_NAME)
    logger.setLevel((config or {}).get("log_level", "INFO"))
    set_up_logs(context_of(config))
    assert logger.level == level
