"""How the SageMaker inference toolkit reads bodies and writes predictions by default.

Source: aws/sagemaker-inference-toolkit 1.10.1, decoder.py, encoder.py, utils.py, to the byte. But
`.npy` is read without pickles: upstream's `allow_pickle=True` runs what the sender put there.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Container, Mapping
from typing import Any, Final

import numpy as np

from rayserve_app.types import Array

JSON: Final = "application/json"
CSV: Final = "text/csv"
NPY: Final = "application/x-npy"
NPZ: Final = "application/x-npz"

UTF8_TYPES: Final = (JSON, CSV)
"""Bodies of these types reach user code as text, all others as a bytearray. Compared to the
letter: with `; charset=utf-8` behind it a type is another one."""


class UnsupportedFormatError(Exception):
    """A content type that the default functions neither read nor write."""

    def __init__(self, content_type: str | None) -> None:
        # errors.py; the missing dedentation is upstream's.
        indent = " " * 12
        super().__init__(
            f"Content type {content_type} is not supported by this framework.\n\n"
            f"{indent}Please implement input_fn to to deserialize the request data or an output_fn"
            f" to\n{indent}serialize the response. For more information, see the SageMaker Python"
            " SDK README."
        )


def decode(data: Any, content_type: str | None) -> Any:
    """Return a body as an array, for `.npz` as a sparse matrix.

    Raises:
        UnsupportedFormatError: another content type.
    """
    reader = READERS.get(content_type or "")
    if reader is None:
        raise UnsupportedFormatError(content_type)
    return reader(data)


def encode(prediction: Any, content_type: str) -> bytes | str:
    """Return an array, or what can become one, as JSON, CSV or `.npy`.

    Raises:
        UnsupportedFormatError: another content type.
    """
    writer = WRITERS.get(content_type)
    if writer is None:
        raise UnsupportedFormatError(content_type)
    return writer(prediction)


def encode_accepted(prediction: Any, accept: str) -> tuple[bytes | str, str]:
    """Return a prediction in the first known of the accepted types, and that type."""
    content_type = first_accepted(accept, WRITERS)
    return encode(prediction, content_type), content_type


def first_accepted(accept: str, known: Container[str]) -> str:
    """Return the first known type of an `Accept` header; weights are not read.

    Raises:
        UnsupportedFormatError: none is known.
    """
    for content_type in accept.replace(" ", "").split(","):
        if content_type in known:
            return content_type
    raise UnsupportedFormatError(accept)


def _read_json(data: str) -> Array:
    return np.array(json.loads(data))


def _read_csv(data: str) -> Array:
    return np.genfromtxt(io.StringIO(data), dtype=None, delimiter=",")


def _read_npy(data: bytes) -> Any:
    return np.load(io.BytesIO(data), allow_pickle=False)


def _read_npz(data: bytes) -> Any:
    from scipy import sparse

    return sparse.load_npz(io.BytesIO(data))


def _write_json(prediction: Any) -> str:
    def as_list(value: Any) -> Any:
        if hasattr(value, "tolist"):
            return value.tolist()
        return json.JSONEncoder().default(value)

    return json.dumps(prediction, default=as_list)


def _write_csv(prediction: Any) -> str:
    stream = io.StringIO()
    np.savetxt(stream, prediction, delimiter=",", fmt="%s")
    return stream.getvalue()


def _write_npy(prediction: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, prediction)
    return stream.getvalue()


READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    NPY: _read_npy,
    CSV: _read_csv,
    JSON: _read_json,
    NPZ: _read_npz,
}
WRITERS: Final[Mapping[str, Callable[[Any], bytes | str]]] = {
    NPY: _write_npy,
    CSV: _write_csv,
    JSON: _write_json,
}
