"""What schemathesis does: requests that an OpenAPI document allows, and requests that it forbids.

Each answer has to be as the document says: a status that it names, of which none is a server's
error, and a body of the type and the schema that stand there. Each media type that an operation
lists is sent, the binary ones as good files and as noise.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from rayserve_app.inference.warm_up import BLACK_PNG

TIMEOUT_S = 60

MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    response_headers_conformance,
    content_type_conformance,
    response_schema_conformance,
]

NPY = io.BytesIO()
np.save(NPY, np.zeros((2, 4, 6, 3), np.uint8))

FILES: Mapping[str, Sequence[bytes]] = {
    "application/jsonlines": [b'"a"\n"b"', b"[1, 2]\n[3, 4]"],
    "application/x-image": [BLACK_PNG],
    "application/x-npy": [NPY.getvalue()],
    "application/x-packed-jpeg": [len(BLACK_PNG).to_bytes(4, "big") + BLACK_PNG],
    "binary/octet-stream": [BLACK_PNG, b"text"],
    **{f"image/{kind}": [BLACK_PNG] for kind in ("bmp", "gif", "jpeg", "png", "tiff", "webp")},
    "text/csv": [b"1,2\n3,4"],
}
"""Good bodies of media types that schemathesis does not know; an image is one by any name."""

for media_type, files in FILES.items():
    schemathesis.openapi.media_type(media_type, st.sampled_from(files) | st.binary(max_size=64))


@schemathesis.serializer("application/x-amz-json-1.1")
def write_amazons_json(_: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


MAY_BE_EMPTY = {"GET /ping"}
"""Of the two protocols that claim these, one answers with a document and one with nothing, which
OpenAPI cannot say of one status."""


def check_operations(
    url: str, *, examples: int, modes: Sequence[GenerationMode] = MODES, **known: str
) -> Counter[int]:
    """Ask each operation of the document at a URL; return how often which status came.

    Args:
        examples: requests to each operation that the document allows, with each media type of its
            body, and as many that it forbids.
        modes: whether to send requests that are allowed, or forbidden, or both.
        known: values of path parameters that are there; in requests that are allowed.
    """
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    statuses: Counter[int] = Counter()
    for mode in modes:
        for found in schema.get_all_operations():
            operation = found.ok()
            values = known if mode is GenerationMode.POSITIVE else {}
            bodies = list(operation.body)
            if mode is GenerationMode.NEGATIVE or len(bodies) < 2:
                statuses += check_operation(operation, mode, values, examples)
                continue
            for body in bodies:
                operation.body.items = [body]
                statuses += check_operation(operation, mode, values, examples)
    return statuses


def check_operation(
    operation: Any, mode: GenerationMode, known: Mapping[str, str], examples: int
) -> Counter[int]:
    """Ask one operation."""
    names = {parameter.name for parameter in operation.path_parameters}
    values = {name: value for name, value in known.items() if name in names}
    requests = operation.as_strategy(generation_mode=mode, path_parameters=values or None)
    checks = CHECKS[:3] if operation.label in MAY_BE_EMPTY else CHECKS
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(requests)
    def check(case: Any) -> None:
        response = case.call(timeout=TIMEOUT_S)
        statuses[response.status_code] += 1
        case.validate_response(response, checks=checks)

    try:
        check()
    except Unsatisfiable:
        # Whatever is sent to an operation without parameters and body is allowed.
        assert mode is GenerationMode.NEGATIVE, operation.label
    return statuses
