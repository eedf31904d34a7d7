"""The messages of TensorFlow Serving's gRPC services.

Source: tensorflow/serving, apis/model.proto, predict.proto, input.proto, classification.proto,
regression.proto, get_model_metadata.proto, get_model_status.proto. They live in a descriptor pool
of their own, because user code may import `tensorflow_serving.apis`, which registers the same names
in the default one. Tensors and signatures are declared as `bytes`, which is the same on the wire:
TensorFlow's own classes read them.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto

_TYPES: Final = {
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
    "int64": _Field.TYPE_INT64,
    "int32": _Field.TYPE_INT32,
    "float": _Field.TYPE_FLOAT,
}

# A message's fields as `(number, name, type)`; `repeated` and `map` as in a .proto file. Enums are
# int32, which is the same on the wire.
_MESSAGES: Final = {
    "Int64Value": [(1, "value", "int64")],
    "Any": [(1, "type_url", "string"), (2, "value", "bytes")],
    "ModelSpec": [
        (1, "name", "string"),
        (2, "version", "Int64Value"),
        (4, "version_label", "string"),
        (3, "signature_name", "string"),
    ],
    "PredictRequest": [
        (1, "model_spec", "ModelSpec"),
        (2, "inputs", "map bytes"),
        (3, "output_filter", "repeated string"),
    ],
    "PredictResponse": [(2, "model_spec", "ModelSpec")],
    # An example stays serialised, and a label may be no UTF-8.
    "ExampleList": [(1, "examples", "repeated bytes")],
    "ExampleListWithContext": [(1, "examples", "repeated bytes"), (2, "context", "bytes")],
    "Input": [
        (1, "example_list", "ExampleList"),
        (2, "example_list_with_context", "ExampleListWithContext"),
    ],
    "ClassificationRequest": [(1, "model_spec", "ModelSpec"), (2, "input", "Input")],
    "Class": [(1, "label", "bytes"), (2, "score", "float")],
    "Classifications": [(1, "classes", "repeated Class")],
    "ClassificationResult": [(1, "classifications", "repeated Classifications")],
    "ClassificationResponse": [
        (1, "result", "ClassificationResult"),
        (2, "model_spec", "ModelSpec"),
    ],
    "RegressionRequest": [(1, "model_spec", "ModelSpec"), (2, "input", "Input")],
    "Regression": [(1, "value", "float")],
    "RegressionResult": [(1, "regressions", "repeated Regression")],
    "RegressionResponse": [(1, "result", "RegressionResult"), (2, "model_spec", "ModelSpec")],
    "GetModelMetadataRequest": [
        (1, "model_spec", "ModelSpec"),
        (2, "metadata_field", "repeated string"),
    ],
    "GetModelMetadataResponse": [(1, "model_spec", "ModelSpec"), (2, "metadata", "map Any")],
    "SignatureDefMap": [(1, "signature_def", "map bytes")],
    # tensorflow/core/protobuf: saved_model.proto and meta_graph.proto, what is read of them.
    "SavedModel": [(2, "meta_graphs", "repeated MetaGraphDef")],
    "MetaGraphDef": [(5, "signature_def", "map bytes")],
    "GetModelStatusRequest": [(1, "model_spec", "ModelSpec")],
    "StatusProto": [(1, "error_code", "int32"), (2, "error_message", "string")],
    "ModelVersionStatus": [
        (1, "version", "int64"),
        (2, "state", "int32"),
        (3, "status", "StatusProto"),
    ],
    "GetModelStatusResponse": [(1, "model_version_status", "repeated ModelVersionStatus")],
}

OUTPUTS: Final = 1
"""Number of `PredictResponse.outputs`, a map of tensors, which is written without protobuf."""

AVAILABLE: Final = 30
"""ModelVersionStatus.State of a version that answers."""


def _file() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="prediction.proto", package="prediction", syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field_name, kind in fields:
            modifier, _, base = kind.rpartition(" ")
            field = message.field.add(name=field_name, number=number, label=_Field.LABEL_OPTIONAL)
            if modifier:
                field.label = _Field.LABEL_REPEATED
            if modifier == "map":
                base = _add_map_entry(name, message, field_name, base)
            _set_type(field, base)
    return file


def _add_map_entry(owner: str, message: Any, field_name: str, kind: str) -> str:
    """Declare the message that stands for a map's entries, and return its name."""
    name = f"{field_name.title().replace('_', '')}Entry"
    entry = message.nested_type.add(name=name)
    entry.options.map_entry = True
    for number, each, base in ((1, "key", "string"), (2, "value", kind)):
        field = entry.field.add(name=each, number=number, label=_Field.LABEL_OPTIONAL)
        _set_type(field, base)
    return f"{owner}.{name}"


def _set_type(field: Any, kind: str) -> None:
    if kind in _TYPES:
        field.type = _TYPES[kind]
    else:
        field.type = _Field.TYPE_MESSAGE
        field.type_name = f".prediction.{kind}"


_POOL: Final = descriptor_pool.DescriptorPool()
_POOL.AddSerializedFile(_file().SerializeToString())


def _message(name: str) -> Any:
    descriptor = _POOL.FindMessageTypeByName(f"prediction.{name}")
    return message_factory.GetMessageClass(descriptor)


PredictRequest: Final = _message("PredictRequest")
PredictResponse: Final = _message("PredictResponse")
ClassificationRequest: Final = _message("ClassificationRequest")
ClassificationResponse: Final = _message("ClassificationResponse")
RegressionRequest: Final = _message("RegressionRequest")
RegressionResponse: Final = _message("RegressionResponse")
GetModelMetadataRequest: Final = _message("GetModelMetadataRequest")
GetModelMetadataResponse: Final = _message("GetModelMetadataResponse")
SignatureDefMap: Final = _message("SignatureDefMap")
GetModelStatusRequest: Final = _message("GetModelStatusRequest")
GetModelStatusResponse: Final = _message("GetModelStatusResponse")
SavedModel: Final = _message("SavedModel")
