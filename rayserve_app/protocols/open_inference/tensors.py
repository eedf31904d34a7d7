"""Between the Open Inference Protocol's tensors and a model's items and results.

What an input becomes depends on the model's declared input alone. A model of encoded images, bytes,
strings or whole requests takes BYTES, (N) or (N, 1), for N items; of images also pixels. Nothing
here knows how tensors travel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np

from rayserve_app.codecs import open_inference_tensor as tensor
from rayserve_app.codecs.plain_values import with_text
from rayserve_app.errors import DecodeError, InvalidRequest, PredictError, ShapeMismatch
from rayserve_app.inference.servables import Servable
from rayserve_app.media_types import OCTETS
from rayserve_app.payloads.inputs import Inputs
from rayserve_app.payloads.items import Payload
from rayserve_app.payloads.outputs import ONLY_OUTPUT, named_arrays, whole_columns
from rayserve_app.protocols.open_inference.messages import (
    InferenceRequest,
    InputTensor,
    OutputTensor,
    RequestedOutput,
)
from rayserve_app.types import Array, Buffer, Metadata, Row, TensorSpec

ELEMENT_BYTES: Final = 64
ITEM_BYTES: Final = 128
"""What an element of BYTES takes to read, and an item, in bytes of JSON."""

CLASSIFIABLE: Final = "biuf"


def input_specs(servable: Servable) -> tuple[TensorSpec, ...]:
    """Return what a client is told of the inputs, the batch axis first: the model's own tensors;
    BYTES of shape (N, 1) for a model whose items are elements of it."""
    inputs = servable.inputs
    return inputs.specs if inputs.takes_tensors else (inputs.specs[0]._replace(shape=(-1, 1)),)


def read_items(request: InferenceRequest, servable: Servable, model_name: str) -> Payload:
    """Read the items of a request.

    Raises:
        DecodeError, ShapeMismatch, RequestTooLarge: the path names the input.
        InvalidRequest: an input is of another datatype than the model's, in Triton's words.
    """
    inputs, specs = servable.inputs, _specs_by_name(servable)
    columns: dict[str, Any] = {}
    for index, each in enumerate(request.inputs):
        spec = specs.get(each.name)
        try:
            columns[each.name] = _read(_shaped(each, spec), inputs)
        except InvalidRequest as exc:
            raise exc.at(f"inputs[{index}]") from exc.__cause__
        if spec is not None:
            _check_datatype(each, spec, inputs, model_name)
    if inputs.settings.type == "request":
        payload = _invocations(columns, inputs)
    else:
        payload = inputs.from_columns(columns, path="inputs")
    if not payload.items:
        raise DecodeError("No items", expected="at least one", path="inputs")
    return payload


def read_work_bytes(request: InferenceRequest, inputs: Inputs) -> int:
    """Return how much `read_items` has to do beside reading JSON's values, as `json.work_bytes`
    measures it; encoded images pass as they are."""
    work = 0
    for each in request.inputs:
        if each.is_binary and each.datatype == "BYTES":
            work += ELEMENT_BYTES * min(len(each.data) // 4, math.prod(each.shape))
            work += inputs.work_bytes(each.data, OCTETS)
        elif each.is_binary:
            work += len(each.data)
        work += ITEM_BYTES * (each.shape[0] if each.shape else 1)
    return work


def read_raw(body: Buffer, servable: Servable, model_name: str) -> Payload:
    """Read a raw binary request, whose body is all the data of the one input: one item, whose shape
    follows from the body's length; an element of BYTES stands there without its length.

    Raises:
        DecodeError: it does not follow, in Triton's words (infer_request.cc, Normalize).
    """
    specs, inputs = input_specs(servable), servable.inputs
    if len(specs) != 1:
        raise DecodeError(
            f"Raw request must only have 1 input (found 1) to be deduced but got {len(specs)} "
            f"inputs in '{model_name}' model configuration"
        )
    (spec,) = specs
    if inputs.settings.type == "request":
        return _invocations({spec.name: [body]}, inputs)
    if not inputs.takes_tensors:
        return inputs.from_columns({spec.name: [memoryview(body)]})
    if spec.dtype == "string":
        if spec.shape not in ((-1, 1), (-1,)):
            raise DecodeError(
                f"For BYTE datatype raw input '{spec.name}', the model must have input shape [1]"
            )
        return inputs.from_columns({spec.name: tensor.as_objects([body], (1, *spec.shape[1:]))})
    datatype, shape = _deduce(spec, len(body))
    return inputs.from_columns({spec.name: tensor.numbers_from_binary(body, datatype, shape)})


def check_outputs(requested: Sequence[RequestedOutput], metadata: Metadata, model: str) -> None:
    """Raise InvalidRequest for an output of which the model's metadata does not know, if it says
    anything of outputs: before the model runs in vain."""
    known = {spec.name for spec in metadata.outputs}
    for each in requested:
        if known and each.name not in known:
            raise _no_such_output(each.name, known, model)


def result_bytes(rows: Sequence[Row]) -> int:
    """Return how large the arrays of results are, nearly; nothing for objects."""
    outputs = rows[0].outputs
    if not isinstance(outputs, Mapping):
        return 0
    sizes: list[int] = [array.nbytes // len(array) for array in outputs.values()]
    return sum(sizes) * len(rows)


def columns_of(rows: Sequence[Row]) -> dict[str, list[Array]]:
    """Return per output its arrays along axis 0: of rows that are neighbours in one batch a slice
    of the batch's own array, so that nothing is copied."""
    if not isinstance(rows[0].outputs, Mapping):
        return {name: [array] for name, array in named_arrays(rows).items()}
    breaks = [
        index
        for index, (left, right) in enumerate(pairwise(rows), start=1)
        if left.outputs is not right.outputs or left.position + 1 != right.position
    ]
    parts = [named_arrays(rows[i:j]) for i, j in pairwise([0, *breaks, len(rows)])]
    return {name: [part[name] for part in parts] for name in parts[0]}


def output_tensors(
    columns: Mapping[str, Sequence[Array]],
    requested: Sequence[RequestedOutput],
    model_name: str,
    specs: Sequence[TensorSpec] = (),
) -> list[OutputTensor]:
    """Return the requested outputs in the order in which they were asked for, or all of them. The
    only output also answers to the name that is told before it is known.

    Args:
        columns: what `columns_of` returned.
        specs: what the model says of its outputs.
    Raises:
        InvalidRequest: there is no such output, or it is of no type that can be classified.
        PredictError: an output's arrays are not of one shape and type.
    """
    without_batch = {spec.name for spec in specs if not spec.has_batch_axis}
    wanted = {each.name: each for each in requested} or {n: RequestedOutput(n) for n in columns}
    found = []
    for name, output in wanted.items():
        runs = columns.get(name)
        if runs is None and name == ONLY_OUTPUT and len(columns) == 1:
            (runs,) = columns.values()
        if runs is None:
            raise _no_such_output(name, columns.keys(), model_name)
        if output.classes:
            runs = [_classify(run, output.classes) for run in runs]
        if name in without_batch:
            (whole,) = whole_columns({name: np.concatenate(runs)}, specs).values()
            found.append(_output(name, [whole[None]])._replace(shape=whole.shape))
            continue
        found.append(_output(name, runs))
    return found


def _deduce(spec: TensorSpec, size_bytes: int) -> tuple[str, tuple[int, ...]]:
    """Return the datatype and the shape of one item of so many bytes."""
    dims = spec.item_shape
    if not spec.is_known or not spec.dtype or dims.count(-1) > 1:
        raise DecodeError(
            f"The shape of the raw input '{spec.name}' can not be deduced because there are more "
            "than one variable-sized dimension"
        )
    datatype = tensor.DATATYPES[spec.dtype]
    unit = tensor.ITEM_BYTES[datatype] * math.prod(size for size in dims if size != -1)
    count, rest = divmod(size_bytes, unit) if unit else (0, size_bytes)
    if rest or (-1 not in dims and count != 1):
        raise DecodeError(
            f"The body does not match the shape of the raw input '{spec.name}'",
            expected=f"{'a multiple of ' if -1 in dims else ''}{unit} bytes for {list(dims)}",
            got=str(size_bytes),
        )
    shape = tuple(count if size == -1 else size for size in dims)
    return datatype, (1, *shape) if spec.has_batch_axis else shape


def _specs_by_name(servable: Servable) -> dict[str, TensorSpec]:
    """Return what the inputs are by all the names that they answer to."""
    specs, names = input_specs(servable), servable.inputs.names
    if servable.inputs.settings.type == "tensors":
        return {spec.name: spec for spec in specs}
    return dict.fromkeys(names, specs[0])


def _shaped(each: InputTensor, spec: TensorSpec | None) -> InputTensor:
    """Return an input in the model's own shape, if that is one number or text per item: clients
    send it as [], [N] or [N, 1]."""
    if spec is None or not (spec.shape and spec.has_batch_axis) or spec.shape == each.shape:
        return each
    own, sent = spec.shape[1:], each.shape[1:]
    if max(own, default=1) > 1 or min(own, default=1) < 1 or any(size != 1 for size in sent):
        return each
    return each._replace(shape=(*(each.shape[:1] or (1,)), *own))


def _check_datatype(each: InputTensor, spec: TensorSpec, inputs: Inputs, model_name: str) -> None:
    """Raise InvalidRequest for another datatype than the model's (Triton's core, infer_request.cc,
    Normalize): a cast might change the numbers, and the caller would not know.

    BF16 is how FP32 may travel, to the bit. A model that does not say its type takes any, as one of
    whole requests, which has words of its own, takes none but BYTES."""
    known = [tensor.DATATYPES[spec.dtype]] if spec.dtype in tensor.DATATYPES else []
    if "FP32" in known:
        known.append("BF16")
    if inputs.takes_images:
        known.append("UINT8")  # of pixels, or of one encoded image
    if inputs.settings.type == "image":
        known.append(tensor.DATATYPES[inputs.preprocess.normalized_dtype.name])
    if inputs.settings.type == "request" or not known or each.datatype in known:
        return
    raise InvalidRequest(
        f"inference input '{each.name}' data-type is '{each.datatype}', but model '{model_name}'"
        f" expects '{known[0]}'"
    )


def _read(each: InputTensor, inputs: Inputs) -> Any:
    """Return an input as `Inputs.from_columns` takes it."""
    if each.datatype != "BYTES":
        decode = tensor.numbers_from_binary if each.is_binary else tensor.numbers_from_json
        return decode(each.data, each.datatype, each.shape)
    if inputs.takes_tensors:
        return tensor.as_objects(_elements(each), each.shape)
    if not each.shape or max(each.shape[1:], default=1) > 1:
        raise ShapeMismatch(
            "Not one element per item", expected="[N] or [N, 1]", got=str(list(each.shape))
        )
    inputs.check_count(each.shape[0])
    return _elements(each)


def _elements(each: InputTensor) -> Sequence[str] | Sequence[memoryview]:
    if each.is_binary:
        return tensor.elements_from_binary(each.data, each.shape)
    return tensor.elements_from_json(each.data, each.shape)


def _invocations(columns: Mapping[str, Any], inputs: Inputs) -> Payload:
    """Return the bodies that a model of whole requests takes."""
    ((name, bodies),) = columns.items() if len(columns) == 1 else (("", None),)
    if name not in inputs.names or not isinstance(bodies, list):
        raise ShapeMismatch(
            "The model takes whole requests",
            expected=f"one input {inputs.names[0]!r} of BYTES, one body per element",
            got=str(sorted(columns)),
            path="inputs",
        )
    items = [
        item
        for index, body in enumerate(bodies)
        for item in inputs.from_json_item(body, path=f"inputs.{name}[{index}]")
    ]
    return Payload(items, True)


def _output(name: str, runs: Sequence[Array]) -> OutputTensor:
    runs = [with_text(run) if run.dtype.kind == "M" else run for run in runs]
    datatypes = {tensor.datatype_of(run) for run in runs}
    shapes = {run.shape[1:] for run in runs}
    if len(datatypes) > 1 or len(shapes) > 1:
        raise PredictError(f"Output {name!r} has results of unlike shapes or types")
    count = sum(len(run) for run in runs)
    return OutputTensor(name, datatypes.pop(), (count, *shapes.pop()), runs)


def _classify(array: Array, count: int) -> Array:
    """Return the largest elements of each item as `value:index`, the largest first, of equal ones
    the first: (N, count), or fewer if there are fewer elements."""
    if array.dtype.kind not in CLASSIFIABLE or array.dtype.name in ("float16", "bool"):
        raise InvalidRequest(
            "class result not available for output due to unsupported type "
            f"'{tensor.datatype_of(array)}'"
        )
    table = array.reshape(len(array), -1)
    # Sorted backwards, so that equal elements keep their order without a sign that integers lack.
    order = table.shape[1] - 1 - np.argsort(table[:, ::-1], axis=1, kind="stable")[:, ::-1]
    # classification.cc writes std::to_string: six decimals.
    form = "{:f}:{}" if array.dtype.kind == "f" else "{}:{}"
    found = np.empty((len(table), min(count, table.shape[1])), dtype=object)
    for index, best in enumerate(order[:, : found.shape[1]]):
        found[index] = [form.format(table[index, i], i) for i in best]
    return found


def _no_such_output(name: str, known: Any, model_name: str) -> InvalidRequest:
    return InvalidRequest(
        f"unexpected inference output '{name}' for model '{model_name}'",
        expected=f"one of {', '.join(sorted(known))}",
    )
