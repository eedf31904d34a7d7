"""What SageMaker's TensorFlow container makes of headers.

Source: aws/sagemaker-tensorflow-serving-container da19256, tfs_utils.py and tensorflowServing.js.
"""

from __future__ import annotations

import re
from typing import Final

HEADER: Final = "x-amzn-sagemaker-custom-attributes"

LONGEST: Final = 1024
"""Characters of the header, by SageMaker's service model. The pattern takes quadratic time."""

PATTERN: Final = re.compile(r"(tfs-[a-z\-]+)=([^,]+)")


def tfs_attributes(header: str | None) -> dict[str, str]:
    """Return the container's own attributes, `tfs-model-name=a,tfs-method=predict`, wherever they
    stand among others; each ends at a comma."""
    found = PATTERN.findall((header or "")[:LONGEST])
    return {name: value.strip() for name, value in found if value.strip()}


def accepted_type(accept: str | None) -> str | None:
    """Return the content type of an answer in JSON, which is then written on one line: the first
    accepted one where JSON is accepted; None if the answer stays as TensorFlow Serving writes it.
    """
    if accept is None:
        return None
    # Only the first space goes, by JavaScript's `replace` of a string.
    accepted = accept.strip().replace(" ", "", 1).split(",")
    is_json = {"application/jsonlines", "application/json"} & set(accepted)
    return accepted[0] if is_json else None
