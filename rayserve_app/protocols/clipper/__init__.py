"""Clipper's query API, as ucbrise/clipper 0.4 speaks it: predict, update and metrics.

Sources: src/frontends/src/query_frontend.hpp (routes, replies, error texts) and
src/libclipper/src/query_processor.cpp (deadlines, default outputs), commit 9f25e3f. Its management
API is not here: applications are declared in YAML.
"""

from rayserve_app.protocols.clipper.service import Clipper

__all__ = ["Clipper"]
