"""These tests need MXNet: `test_mxnet.py` runs them in its environment."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("mxnet") else ["test_*.py"]
