"""The vocabulary between codecs, models and backends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rayserve_app.errors import PredictError

Array: TypeAlias = NDArray[Any]

Buffer: TypeAlias = bytes | bytearray | memoryview


class Invocation(NamedTuple):
    """One request as it came, for user code that reads bodies and headers itself."""

    body: Buffer
    content_type: str | None = None
    accept: str | None = None
    custom_attributes: str | None = None
    """`X-Amzn-SageMaker-Custom-Attributes`."""
    headers: tuple[tuple[str, str], ...] = ()
    """All headers as the client sent them, if it did by HTTP; the three above are the protocol's,
    which may have them elsewhere. Equal requests for a model's `cache` are equal without these."""
    is_field: bool = False
    """Whether the body is the field `body` alone of the form that the content type speaks of."""


class Reply(NamedTuple):
    """What such user code answers, to be sent as it is."""

    body: bytes | str
    content_type: str | None = None
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    """Others than the content type, by their names in lower case."""

    @property
    def text(self) -> str | None:
        """The body as text, None where it is not: for protocols that carry only text or JSON."""
        if isinstance(self.body, str):
            return self.body
        try:
            return self.body.decode()
        except UnicodeDecodeError:
            return None


class FailedInvocation(PredictError):
    """User code failed on a request; `reply` is what its container answers then."""

    def __init__(self, problem: str, reply: Reply) -> None:
        super().__init__(problem)
        self.args = (problem, reply)
        self.reply = reply


Item: TypeAlias = Buffer | str | Array | Mapping[str, Any] | Invocation
"""What one row of a batch holds: one encoded image, one string, one decoded image (H, W, C) or
tensor, a mapping of input name to tensor (or of `data` and metadata, for JSON with metadata), or a
whole request."""

Outputs: TypeAlias = Mapping[str, Array] | Sequence[Any]
"""What a backend answers for a batch of N items: named tensors whose axis 0 is N, or N objects."""


class Row(NamedTuple):
    """One item's result: row `position` of its batch's `outputs`.

    Kept as a reference, so that the rows of a request that came out of one batch can be written
    from the batch's own arrays without a copy.
    """

    outputs: Outputs
    position: int

    @property
    def value(self) -> Any:
        """The item's object, or its mapping of output name to tensor."""
        if isinstance(self.outputs, Mapping):
            return {name: array[self.position] for name, array in self.outputs.items()}
        return self.outputs[self.position]


class TensorSpec(NamedTuple):
    """One input or output of a model. Unknown dimensions are -1; axis 0 is the batch, and a shape
    without axes is an unknown one, unless the tensor has no batch axis."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    has_batch_axis: bool = True
    """False for what holds for a whole call: a scalar like `keep_prob`, a constant list of
    labels."""

    @property
    def is_known(self) -> bool:
        """Whether the shape says something."""
        return bool(self.shape) or not self.has_batch_axis

    @property
    def item_shape(self) -> tuple[int, ...]:
        """The shape of one item's value, if it is known."""
        return self.shape[1:] if self.has_batch_axis else self.shape


class Metadata(NamedTuple):
    """What a backend says of its loaded model; empty tuples where it cannot tell."""

    platform: str
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()


def describe(array: Array) -> str:
    """Return an array's type and shape as a sentence needs them: `float32 (2, 3)`."""
    return f"{np.asarray(array).dtype} {np.shape(array)}"
