"""What a model's YAML may say of Cluster Serving's HTTP frontend."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator

from rayserve_app.settings.section import Section


def _check_post_processing(value: str) -> str:
    if not re.fullmatch(r"(topN|pickTopN)\([1-9][0-9]{0,5}\)", value):
        raise ValueError("Not `topN(n)` or `pickTopN(n)`")
    return value


class ClusterServingSettings(Section):
    """The HTTP frontend of Analytics Zoo Cluster Serving."""

    prediction: Literal["json", "map"] = "json"
    """How one prediction is written as a string: JSON as since 0.10, or a Java map as in 0.9."""
    post_processing: Annotated[str, AfterValidator(_check_post_processing)] | None = None
    """`topN(n)` or `pickTopN(n)`."""
