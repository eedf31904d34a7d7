"""Each test hears the one warning of its process."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.internals.versions import warn


@pytest.fixture(autouse=True)
def _unwarned(monkeypatch: pytest.MonkeyPatch) -> None:
    warner: Any = warn.__self__  # type: ignore[attr-defined]
    monkeypatch.setattr(warner, "_has_warned", False)
