"""What a model says of itself at its prefix, as far as a client needs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np

from rayserve_app.client.errors import UnexpectedAnswer
from rayserve_app.errors import ConfigurationError
from rayserve_app.types import TensorSpec

VECTORS = ("integers", "floats", "doubles")


class Description(NamedTuple):
    """A model's declared input and output, and its limits."""

    name: str
    is_ready: bool
    input_type: str
    input_codec: str
    input_size: tuple[int, int] | None
    """Height and width that images are brought to."""
    item_rank: int | None
    """Axes of one array, where the model takes arrays and knows."""
    outputs: tuple[TensorSpec, ...]
    """Empty if the model does not know; axis 0 is the items."""
    output_codec: str
    max_batch_size: int
    max_items: int
    max_body_bytes: int
    max_request_pixels: int

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Read a model's description.

        Raises:
            UnexpectedAnswer: it is none.
            ConfigurationError: the model does not speak what the client does.
        """
        try:
            found = cls._parse(value)
            protocols = list(value["protocols"])
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise UnexpectedAnswer(
                "Not the description of a model",
                remedy="The URL is a model's own, like http://localhost:8000/NAME, or give model=",
            ) from exc
        if "sagemaker" not in protocols:
            raise ConfigurationError(
                f"Model {found.name!r} does not speak to this client",
                expected="sagemaker",
                got=", ".join(protocols),
                path="args.model.protocols",
            )
        return found

    @classmethod
    def _parse(cls, value: Mapping[str, Any]) -> Self:
        declared, limits, output = value["input"], value["limits"], value["output"]
        size = declared.get("size")
        return cls(
            name=str(value["name"]),
            is_ready=bool(value["ready"]),
            input_type=str(declared["type"]),
            input_codec=str(declared.get("codec", "raw")),
            input_size=None if size is None else (int(size[0]), int(size[1])),
            item_rank=_item_rank(declared, value["inputs"]),
            outputs=tuple(
                TensorSpec(each["name"], each["datatype"], tuple(map(int, each["shape"])))
                for each in value["outputs"]
            ),
            output_codec=str(output["codec"]),
            max_batch_size=int(value["max_batch_size"]),
            max_items=int(limits["max_items"]),
            max_body_bytes=int(float(limits["max_body_mb"]) * 1e6),
            max_request_pixels=int(limits["max_request_pixels"]),
        )

    @property
    def takes_encoded(self) -> bool:
        """Whether an item travels as the bytes of an image file."""
        return self.input_type in ("bytes", "image") or self.input_codec != "raw"

    @property
    def takes_stream(self) -> bool:
        """Whether many images may travel as one packed stream."""
        return self.input_codec == "packed_jpeg"

    @property
    def takes_image_arrays(self) -> bool:
        """Whether pixels may travel as they are."""
        return self.input_type == "image" and self.input_codec == "raw"

    @property
    def answers_arrays(self) -> bool:
        """Whether all outputs are known to be arrays of numbers."""
        return bool(self.outputs) and all(_is_number(each.dtype) for each in self.outputs)


def _item_rank(declared: Mapping[str, Any], inputs: list[Mapping[str, Any]]) -> int | None:
    if declared["type"] in VECTORS:
        return 1
    if declared.get("shape") is not None:
        return len(declared["shape"])
    shape = inputs[0]["shape"] if len(inputs) == 1 else ()
    return len(shape) - 1 if shape else None


def _is_number(dtype: str) -> bool:
    try:
        return bool(dtype) and np.dtype(dtype).kind in "biuf"
    except TypeError:
        return False
