"""What a model's YAML may say of SageMaker's protocols."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from rayserve_app.settings.locations import check_place
from rayserve_app.settings.section import Section


class SageMakerSettings(Section):
    """SageMaker's runtime API."""

    async_input: tuple[Annotated[str, AfterValidator(check_place)], ...] = ()
    """Where inputs of asynchronous invocations may lie: `s3://bucket/prefix/`, `gs://` likewise, or
    a directory's absolute path. Nowhere if empty; inputs may still come with the request."""
    async_output: Annotated[str, AfterValidator(check_place)] | None = None
    """Where the results of asynchronous invocations are written; none are taken without it. Clients
    may choose names below it and so replace each other's results, as in S3: keep nothing else
    there."""
    async_concurrency: Annotated[int, Field(gt=0)] = 4
    """Asynchronous invocations that one replica works on at a time."""
    async_max_pending: Annotated[int, Field(gt=0)] = 1000
    """Asynchronous invocations that wait or run in one replica; more are refused."""
