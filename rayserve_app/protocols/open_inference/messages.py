"""Requests and answers of the Open Inference Protocol v2 over HTTP, and their wire forms.

Sources: kserve/open-inference-protocol, open_inference_rest.md; Triton's extension_binary_data.md,
extension_classification.md, extension_parameters.md and http_server.cc. Sequences, priorities and
time-outs are read and play no part. Shared memory is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np

from rayserve_app.codecs import image_header, json
from rayserve_app.codecs import open_inference_tensor as tensor
from rayserve_app.errors import DecodeError, InvalidRequest, NotAcceptable, PredictError
from rayserve_app.types import Array, Buffer

A = TypeVar("A")
T = TypeVar("T")

LENGTH_HEADER: Final = "Inference-Header-Content-Length"

SCALARS: Final = (bool, int, float, str)


class InputTensor(NamedTuple):
    """One input as it came; its data is still to be decoded."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Any
    """JSON's values, or the bytes of the binary form as a memoryview."""

    @property
    def is_binary(self) -> bool:
        return isinstance(self.data, memoryview)


class RequestedOutput(NamedTuple):
    """How one output is to be answered; with `classes` as the best so many of its elements."""

    name: str
    is_binary: bool = False
    classes: int = 0


class InferenceRequest(NamedTuple):
    """One request."""

    inputs: Sequence[InputTensor]
    outputs: Sequence[RequestedOutput] = ()
    """Empty for all outputs, as `is_binary` says."""
    is_binary: bool = False
    id: str = ""

    @property
    def is_all_binary(self) -> bool:
        """Whether nothing of the answer's data stands in JSON."""
        if not self.outputs:
            return self.is_binary
        return all(each.is_binary for each in self.outputs)


class OutputTensor(NamedTuple):
    """One output: `runs` are its arrays along axis 0, one for each batch that its items were in."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    runs: Sequence[Array]


class InferenceResponse(NamedTuple):
    """One answer."""

    model_name: str
    model_version: str
    outputs: Sequence[OutputTensor]
    id: str = ""


def header_length(value: str | None, body_bytes: int) -> int | None:
    """Return the number that LENGTH_HEADER holds; None where it is absent.

    Raises:
        DecodeError: no length, or more than the body has.
    """
    if value is None:
        return None
    if not value.isdecimal() or len(value) > 18 or int(value) > body_bytes:
        raise DecodeError(
            f"{LENGTH_HEADER} is no length",
            expected=f"0 to {body_bytes}, the body's length",
            got=repr(value[:40]),
        )
    return int(value)


def parse(body: Buffer, length: int | None) -> InferenceRequest:
    """Read a request: JSON, followed by the inputs' binary data in their order.

    Args:
        length: what LENGTH_HEADER says of the JSON; None where all of the body is JSON.
    Raises:
        DecodeError: the sentence names the place and, where Triton has words for it, uses them.
    """
    view = memoryview(body)
    document = view if length is None else view[:length]
    if not len(view):
        raise DecodeError("The body is empty", expected="a JSON object with `inputs`")
    try:
        fields = present(json.decode_object(document))
    except DecodeError as exc:
        if length is not None:
            raise
        # Triton's issue 4244: binary data after the JSON, and no header to tell where it starts.
        remedy = f"With binary data after the JSON, {LENGTH_HEADER} must say the JSON's length."
        if name := image_header.evident_format(view):
            remedy = f"It is a {name} image, which alone is a raw request, with {LENGTH_HEADER}: 0"
        raise DecodeError(exc.problem, expected=exc.expected, got=exc.got, remedy=remedy) from exc
    parameters = _parameters(fields)
    _check_parameters(parameters)
    is_binary = _flag(parameters, "binary_data_output")
    request_id = fields.get("id", "")
    if not isinstance(request_id, str):
        raise DecodeError("Unable to parse 'id'", expected="a string", path="id")
    outputs = _objects(fields, "outputs") if "outputs" in fields else []
    return InferenceRequest(
        _inputs(_objects(fields, "inputs"), view[len(document) :]),
        [_at(_output, each, f"outputs[{i}]", is_binary) for i, each in enumerate(outputs)],
        is_binary,
        request_id,
    )


def present(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an object that are there. One that is null is absent: KServe's SDK
    writes every field that it knows, `"id": null` (infer_type.py, InferRequest.to_dict)."""
    return {name: value for name, value in fields.items() if value is not None}


def render(
    response: InferenceResponse, binary: Mapping[str, bool]
) -> tuple[list[Buffer], int | None]:
    """Write an answer.

    Args:
        binary: by output whether its data follows the JSON in binary.

    Returns:
        The body, in which binary data is the arrays' own memory; and what LENGTH_HEADER says,
        None if there is no binary data.

    Raises:
        NotAcceptable: JSON cannot hold an output's values.
    """
    blobs: list[Buffer] = []
    outputs = []
    for each in response.outputs:
        fields: dict[str, Any] = {
            "name": each.name,
            "datatype": each.datatype,
            "shape": each.shape,
        }
        if binary[each.name]:
            own = [tensor.to_binary(run) for run in each.runs]
            fields["parameters"] = {"binary_data_size": sum(map(len, own))}
            blobs += [blob for blob in own if len(blob)]
        else:
            fields["data"] = _json_data(each)
        outputs.append(fields)
    document: dict[str, Any] = {"id": response.id} if response.id else {}
    document |= {"model_name": response.model_name, "model_version": response.model_version}
    document["outputs"] = outputs
    try:
        head = json.encode(document)
    except PredictError as exc:
        # The model's results have no such form: it is the caller who asked for it.
        raise NotAcceptable(f"{exc}. Binary outputs hold all numbers.") from exc
    return [head, *blobs], len(head) if any(binary.values()) else None


def _json_data(output: OutputTensor) -> Any:
    try:
        parts = [tensor.to_json(run) for run in output.runs]
    except NotAcceptable as exc:
        raise exc.at(output.name) from exc.__cause__
    if len(parts) == 1:
        return parts[0]
    if output.datatype == "BYTES":
        return [text for part in parts for text in part]
    return np.concatenate(parts)


def _inputs(objects: Sequence[Mapping[str, Any]], blobs: memoryview) -> list[InputTensor]:
    found: dict[str, InputTensor] = {}
    for index, fields in enumerate(objects):
        read = _at(_input, fields, f"inputs[{index}]", blobs)
        if read.name in found:
            raise DecodeError(f"input '{read.name}' already exists in request")
        found[read.name] = read
        if read.is_binary:
            blobs = blobs[len(read.data) :]
    if len(blobs):
        raise DecodeError(f"unexpected additional input data, {len(blobs)} bytes")
    return list(found.values())


def _input(fields: Mapping[str, Any], blobs: memoryview) -> InputTensor:
    name = _name(fields)
    datatype = tensor.check_datatype(fields.get("datatype"))
    shape = tensor.check_shape(fields.get("shape"), datatype)
    parameters = _parameters(fields)
    _refuse_shared_memory(parameters)
    has_data, is_binary = "data" in fields, "binary_data_size" in parameters
    if has_data == is_binary:
        got = "both" if has_data else "no field is"
        raise DecodeError(
            "Input must set only one of the following fields: 'data', 'binary_data_size' in "
            f"'parameters'. But {got} set"
        )
    if has_data:
        return InputTensor(name, datatype, shape, fields["data"])
    size = parameters["binary_data_size"]
    if type(size) is not int or size < 0:
        raise DecodeError("Unable to parse 'binary_data_size'", expected="a length")
    if size > len(blobs):
        raise DecodeError(
            f"unexpected size for input '{name}', expecting {size - len(blobs)} more bytes",
            remedy=f"{LENGTH_HEADER} says where the JSON ends and binary data begins.",
        )
    return InputTensor(name, datatype, shape, blobs[:size])


def _output(fields: Mapping[str, Any], is_binary: bool) -> RequestedOutput:
    parameters = _parameters(fields)
    _refuse_shared_memory(parameters)
    classes = parameters.get("classification", 0)
    if type(classes) is not int or classes < 0:
        raise DecodeError("Unable to set 'classification'", expected="a number of classes")
    # `binary_data` of an output overrides `binary_data_output` of the request.
    return RequestedOutput(
        _name(fields), _flag(parameters, "binary_data", default=is_binary), classes
    )


def _check_parameters(parameters: Mapping[str, Any]) -> None:
    for key, value in parameters.items():
        if key.startswith("triton_"):
            raise DecodeError(
                "parameter keys starting with 'triton_' are reserved for Triton usage and should "
                "not be specified."
            )
        if not isinstance(value, SCALARS):
            raise DecodeError(
                f"parameter '{key}' has invalid type. It should be either 'int', 'bool', "
                "'double', or 'string'."
            )


def _parameters(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = fields.get("parameters", {})
    if not isinstance(parameters, dict):
        raise DecodeError("Unable to parse 'parameters'", expected="an object")
    return present(parameters)


def _flag(parameters: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise DecodeError(f"Unable to parse '{name}'", expected="a boolean")
    return value


def _name(fields: Mapping[str, Any]) -> str:
    name = fields.get("name")
    if not isinstance(name, str) or not name:
        raise DecodeError("Unable to parse 'name'", expected="a string", path="name")
    return name


def _objects(fields: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    value = fields.get(key)
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise DecodeError(f"Unable to parse '{key}'", expected="a list of objects", path=key)
    return [present(each) for each in value]


def _refuse_shared_memory(parameters: Mapping[str, Any]) -> None:
    if "shared_memory_region" in parameters:
        raise InvalidRequest(
            "the server does not support shared memory", path="parameters.shared_memory_region"
        )


def _at(
    read: Callable[[Mapping[str, Any], A], T], fields: Mapping[str, Any], place: str, argument: A
) -> T:
    try:
        return read(fields, argument)
    except InvalidRequest as exc:
        raise exc.at(place) from exc.__cause__
