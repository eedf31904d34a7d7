"""What an application is bound to, which it keeps to itself."""

from __future__ import annotations

from typing import Any

from ray.serve import Application


def bound_arguments(application: Application) -> tuple[Any, ...]:
    """Return what Serve hands to the constructor of a replica of an application's ingress."""
    arguments: tuple[Any, ...] = application._bound_deployment.init_args
    return arguments
