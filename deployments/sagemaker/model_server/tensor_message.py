"""Tensors as TensorFlow's `TensorProto`.

Source: tensorflow, core/framework/tensor.proto and tensor_util.py.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from rayserve_app.errors import InvalidRequest
from rayserve_app.types import Array, Buffer

# The field of each type's values, and its number where the values' memory is what a packed field
# holds: fixed-width numbers, and booleans, whose varints are one byte.
FIELDS: Final = {
    "float32": ("float_val", 5),
    "float64": ("double_val", 6),
    "bool": ("bool_val", 11),
    "int8": ("int_val", None),
    "int16": ("int_val", None),
    "int32": ("int_val", None),
    "uint8": ("int_val", None),
    "uint16": ("int_val", None),
    "int64": ("int64_val", None),
    "uint32": ("uint32_val", None),
    "uint64": ("uint64_val", None),
    "float16": ("half_val", None),
    "bfloat16": ("half_val", None),
    "object": ("string_val", None),
}

LENGTH_DELIMITED: Final = 2
"""Wire type of strings, bytes, messages and packed numbers (protobuf, "Encoding")."""


def decode(data: bytes) -> Array:
    """Read a serialised tensor, of the shape that it states, in any of its forms: `tensor_content`,
    typed values, or fewer values than elements, of which the last one fills the rest. Strings come
    as `bytes` in object arrays.

    Raises:
        InvalidRequest: not a tensor.
    """
    import tensorflow as tf
    from google.protobuf.message import DecodeError
    from tensorflow.core.framework.tensor_pb2 import TensorProto

    try:
        message = TensorProto.FromString(data)
        if content := message.tensor_content:
            # `make_ndarray` would copy it once more.
            flat = np.frombuffer(content, tf.as_dtype(message.dtype).as_numpy_dtype)
            return flat.reshape([dim.size for dim in message.tensor_shape.dim])
        array: Array = tf.make_ndarray(message)
    except (DecodeError, TypeError, ValueError) as exc:
        raise InvalidRequest(f"Not a tensor: {exc}") from exc
    return array


def encode(array: Array) -> list[Buffer]:
    """Write an array of any shape with typed values, as TensorFlow Serving answers: clients read
    `float_val`.

    Returns: buffers that follow each other; the values of most types are the array's own memory.
    """
    import tensorflow as tf
    from tensorflow.core.framework.tensor_pb2 import TensorProto

    name = array.dtype.name
    if name not in FIELDS:
        return [tf.make_tensor_proto(array).SerializeToString()]
    field, number = FIELDS[name]
    dtype = tf.string if name == "object" else tf.as_dtype(array.dtype)
    message: Any = TensorProto(
        dtype=dtype.as_datatype_enum,
        tensor_shape=tf.TensorShape(array.shape).as_proto(),
    )
    if number is None:
        values = array.view(np.uint16) if field == "half_val" else array
        getattr(message, field).extend(values.ravel().tolist())
        return [message.SerializeToString()]
    little_endian = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    packed = little_endian.reshape(-1).view(np.uint8).data
    # Fields may follow each other in any order.
    return [message.SerializeToString(), field_head(number, len(packed)), packed]


def field_head(number: int, length: int) -> bytes:
    """Return what stands before a field of so many bytes: its number and wire type, the length."""
    return _varint(number << 3 | LENGTH_DELIMITED) + _varint(length)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
