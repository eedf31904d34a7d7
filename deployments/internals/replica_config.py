"""What a replica's deployment is configured to, which its context keeps to itself."""

from __future__ import annotations

from ray.serve.context import ReplicaContext
from ray.serve.schema import LoggingConfig

from deployments.internals.versions import warn


def max_ongoing_requests(context: ReplicaContext) -> int | None:
    """Return how many requests a replica takes at once, None where Serve does not say."""
    try:
        return int(context._deployment_config.max_ongoing_requests)
    except (AttributeError, TypeError, ValueError) as error:
        warn(error)
        return None


def logging_config(context: ReplicaContext) -> LoggingConfig | None:
    """Return what the YAML says of a replica's logs, None where Serve does not say."""
    try:
        return LoggingConfig.model_validate(context._deployment_config.logging_config or {})
    except (AttributeError, ValueError) as error:
        warn(error)
        return None
