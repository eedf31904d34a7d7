"""The log of what models raise."""

from __future__ import annotations

import pytest

from rayserve_app.process import failure_log
from rayserve_app.process.failure_log import PERIOD_S, FailureLog


def test_of_many_failures_at_once_one_is_logged_and_the_next_says_how_many(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(failure_log, "monotonic", lambda: now)
    failures = FailureLog()
    for name in ("first", "second", "third"):
        failures.add(ValueError(name), 8)
    now += PERIOD_S
    failures.add(ValueError("fourth"), 2)
    now += PERIOD_S
    failures.add(ValueError("fifth"), 1)
    assert [(each.getMessage(), str(each.exc_info[1])) for each in caplog.records] == [
        ("The model failed on a batch of 8", "first"),
        ("The model failed on a batch of 2, and on 2 others before it", "fourth"),
        ("The model failed on a batch of 1", "fifth"),
    ]
