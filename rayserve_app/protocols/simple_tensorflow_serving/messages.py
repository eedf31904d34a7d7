"""simple_tensorflow_serving's inference requests and answers.

Source: tobegit3hub/simple_tensorflow_serving 0.8.2, commit 6aa1aad: server.py,
service_utils/request_util.py, tensorflow_inference_service.py. Errors are those that it means to
send, and on Python 2 does; on Python 3 most of them end as a page of HTML with status 500.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

import numpy as np

from rayserve_app.codecs import base64, form, json, lenient_json
from rayserve_app.codecs.form import Field
from rayserve_app.codecs.image_header import evident_format
from rayserve_app.codecs.plain_values import widened
from rayserve_app.errors import (
    DecodeError,
    InvalidRequest,
    ShapeMismatch,
    UnsupportedContentType,
    VersionNotFound,
)
from rayserve_app.inference.model import Model
from rayserve_app.inference.servables import Servable
from rayserve_app.media_types import JSON, OCTETS, media_type
from rayserve_app.payloads.inputs import REMEDIES, Inputs
from rayserve_app.payloads.items import Encoded
from rayserve_app.payloads.outputs import named_arrays, whole_columns
from rayserve_app.payloads.tensors import as_array, whole
from rayserve_app.protocols.protocol import LISTED_NAMES
from rayserve_app.protocols.simple_tensorflow_serving.signature import (
    INTEGERS,
    input_specs,
    takes_files,
)
from rayserve_app.types import Array, Buffer, Invocation, Row, TensorSpec
from rayserve_app.web.messages import did_you_mean

DEFAULT_NAME: Final = "default"
"""`--model_name`'s default, and the name that requests without one mean."""

UPLOADED: Final = "images"
"""What request_util.py calls the input that uploaded files are for, whatever the model's is."""

EXAMPLES: Final = "input_example_tensor"
"""The input of models that were exported from an Estimator."""

_MAX_QUOTED: Final = 200
"""Characters of a client's that an error repeats."""


class Query(NamedTuple):
    """A parsed request: `data` is a mapping of input name to its items' values, or the values of
    the one input."""

    data: Mapping[str, Any] | Sequence[Any]
    version: str | None = None
    signature: str | None = None
    files: Sequence[Field] = ()
    """Where `data` is uploaded files, those with their content types."""


def parse(
    body: Buffer, content_type: str | None, *, model_name: str, autoconvert: bool = False
) -> Query:
    """Read an inference request in JSON or as a form with files.

    Args:
        model_name: the model that requests may ask for, beside DEFAULT_NAME and none.
        autoconvert: whether `{"b64": ...}` anywhere in the data is decoded.

    Raises:
        InvalidRequest: with upstream's sentence, where it has one.
    """
    kind = media_type(content_type)
    # server.py: content_type.startswith("application/json")
    if kind.startswith(JSON):
        return parse_json(body, model_name=model_name, autoconvert=autoconvert)
    if kind == form.MULTIPART:
        # Upstream ignores `model_name` here and asks its default model, whichever is named.
        fields = form.parse(body, content_type)
        check_model_name(text_of(fields, "model_name") or DEFAULT_NAME, model_name)
        return parse_form(fields)
    raise UnsupportedContentType(
        "Error, unsupported content type",
        expected=f"{JSON} or {form.MULTIPART}",
        got=repr(content_type),
        remedy=_remedy(body, kind),
    )


def _remedy(body: Buffer, kind: str) -> str:
    """Return what to do about a body of another type."""
    if not len(body):
        return "The body is empty"
    if kind in REMEDIES and evident_format(body) is None:
        return REMEDIES[kind]
    return "Files are fields `image` or `images` of a form, as curl's -F sends them"


def work_bytes(body: Buffer, content_type: str | None) -> int:
    """Return how much there is to parse, as `json.work_bytes` measures it."""
    if media_type(content_type).startswith(JSON):
        return json.work_bytes(body)
    return form.work_bytes(body, content_type)


def parse_json(body: Buffer, *, model_name: str, autoconvert: bool = False) -> Query:
    """Read a request in JSON."""
    fields = decode_object(body)
    check_model_name(fields.get("model_name", DEFAULT_NAME), model_name)
    return _query(fields, autoconvert=autoconvert)


def parse_json_form(fields: Sequence[Field], *, autoconvert: bool = False) -> Query:
    """Read a request whose field `json_data` is its data, or all of it, as gen_json writes it."""
    data = decode_object((text_of(fields, "json_data") or "").encode())
    request = {
        "data": data,
        "model_version": text_of(fields, "model_version"),
        "signature_name": text_of(fields, "signature_name"),
    }
    if isinstance(data.get("data"), dict):
        request |= data
    return _query(request, autoconvert=autoconvert)


def parse_form(fields: Sequence[Field]) -> Query:
    """Read a request whose fields `image` and `images`, any number of each, are files.

    Upstream takes one `image` and drops the others. It also writes all to disk under the names that
    clients gave them, and has long ceased to read `shape` and `channel_layout`.
    """
    # A browser sends an empty file where its user chose none.
    files = [field for field in fields if field.data or field.filename]
    images = [field for field in files if field.name == "image"]
    images += [field for field in files if field.name == UPLOADED]
    if not images:
        raise InvalidRequest("Need to set image or images for form-data")
    return Query(
        {UPLOADED: [field.data for field in images]},
        text_of(fields, "model_version"),
        text_of(fields, "signature_name"),
        images,
    )


def text_of(fields: Sequence[Field], name: str) -> str | None:
    """Return the text of the first field of a name; None if there is none, or an empty one."""
    for field in fields:
        if field.name == name:
            return field.text or None
    return None


def decode_object(body: Buffer) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        DecodeError: in upstream's words, which repeat the body; of a long one the fault is told.
    """
    try:
        return lenient_json.decode_object(body)
    except DecodeError as exc:
        is_short = 0 < len(body) <= _MAX_QUOTED
        text = bytes(body).decode("utf-8", "replace") if is_short else str(exc)
        raise DecodeError(f"Invalid json data: {text}") from exc


def check_model_name(name: Any, own: str) -> None:
    """Raise InvalidRequest unless a request's `model_name` is this model's, or the default."""
    if name not in (own, DEFAULT_NAME):
        raise unknown_model(name, [own])


def unknown_model(name: Any, known: Sequence[str]) -> InvalidRequest:
    """Return the error for a model that is not there; status 400."""
    # A list, as on Python 2; on Python 3 it is `dict_keys([...])`.
    listed = list(known[:LISTED_NAMES])
    return InvalidRequest(
        f"Invalid model name: {str(name)[:_MAX_QUOTED]}, available models: {listed}",
        remedy=did_you_mean(str(name), known) or None,
    )


def select(model: Model, version: str | None, signature: str | None) -> Servable:
    """Return what a request asks for. Without a version that is the model's default one, as in
    every protocol; upstream takes the last one that `listdir` happened to find.

    Raises:
        InvalidRequest: there is none; the sentence lists those that are.
    """
    try:
        return model.select(version, signature)
    except VersionNotFound as exc:
        what, name, expected = "model version", version, exc.expected
    except InvalidRequest as exc:
        what, name, expected = "signature name", signature, exc.expected
    raise InvalidRequest(
        f"Fail to request the {what}: {(name or '')[:_MAX_QUOTED]}, please check the request JSON",
        expected=expected,
    )


def read_items(query: Query, servable: Servable) -> Sequence[Encoded]:
    """Return the items of a request's data.

    Raises:
        DecodeError, ShapeMismatch, RequestTooLarge: the data do not fit the model.
    """
    inputs = servable.inputs
    if query.files and inputs.settings.type == "request":
        inputs.check_count(len(query.files))
        return [Invocation(bytes(each.data), each.content_type or OCTETS) for each in query.files]
    if isinstance(query.data, Mapping):
        columns = _columns(query.data, inputs)
        if not takes_files(inputs):
            columns = {name: _without_files(values) for name, values in columns.items()}
        items = inputs.from_columns(_with_integers(columns, servable), path="data").items
    else:
        # scikitlearn_inference_service.py, xgboost_inference_service.py: the inputs have no name.
        items = inputs.from_json(query.data, path="data").items
    if not items:
        raise DecodeError("No items", expected="at least one", path="data")
    return items


def render(rows: Sequence[Row], specs: Sequence[TensorSpec] = ()) -> bytes:
    """Write results as Flask's jsonify does: one list per output, outputs in the order of their
    names, numbers of 32 bits widened to 64, NaN and infinities as tokens, a newline at the end.

    Raises:
        PredictError: a result has no form in JSON.
    """
    arrays = whole_columns(named_arrays(rows), specs)
    columns = {name: _plain(arrays[name]) for name in sorted(arrays)}
    return json.encode(columns, with_nan=True) + b"\n"


def autoconverted(value: Any) -> Any:
    """Return a JSON value with every `{"b64": text}` in it decoded (base64_util.py)."""
    if isinstance(value, list):
        return [autoconverted(element) for element in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"b64"} and isinstance(value["b64"], str):
        return base64.decode(value["b64"])
    return {name: autoconverted(element) for name, element in value.items()}


def _query(fields: Mapping[str, Any], *, autoconvert: bool) -> Query:
    # `preprocess` and `postprocess` ask for code that lies beside upstream's models; a model's own
    # stands in the YAML. They and `run_profile` are ignored.
    data = fields.get("data")
    if not data:
        raise InvalidRequest("Inference with empty data, please check the request JSON")
    if not isinstance(data, dict | list):
        raise DecodeError(
            "Wrong kind of data",
            expected="an object of inputs",
            got=type(data).__name__,
            path="data",
        )
    if autoconvert:
        data = autoconverted(data)
    if fields.get("base64_decode") in (True, "true", "True"):
        data = _with_decoded_examples(data)
    return Query(
        data,
        _version(fields.get("model_version")),
        _name(fields.get("signature_name"), "signature_name"),
    )


def _with_decoded_examples(data: Any) -> Any:
    examples = data.get(EXAMPLES) if isinstance(data, dict) else None
    if not isinstance(examples, list) or not all(isinstance(each, str) for each in examples):
        raise DecodeError(
            "Nothing to decode", expected="a list of base64 strings", path=f"data.{EXAMPLES}"
        )
    return {**data, EXAMPLES: [base64.decode(example) for example in examples]}


def _version(value: Any) -> str | None:
    # Upstream compares `str(model_version)`, so that 1 and "1" are one version.
    return _name(str(value) if type(value) is int else value, "model_version")


def _name(value: Any, key: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise DecodeError("Not a name", expected="a string", got=type(value).__name__, path=key)
    return value or None


def _columns(data: Mapping[str, Any], inputs: Inputs) -> Mapping[str, Any]:
    """Return the data of the model's own inputs; upstream ignores all others."""
    names = inputs.names
    if inputs.settings.type == "tensors":
        _check_names(names, data)
        return {name: data[name] for name in names or data}
    if len(names) == 1 and len(data) == 1:
        # The model does not say what its input is called, so that the client's name will do.
        return {names[0]: next(iter(data.values()))}
    given = [name for name in (*names, UPLOADED) if name in data]
    _check_names(given[:1] or names[:1], data)
    return {names[0]: data[given[0]]}


def _check_names(names: Sequence[str], data: Mapping[str, Any]) -> None:
    for name in names:
        if name not in data:
            # Upstream repeats the data.
            raise InvalidRequest(
                f"Input op name {name!r} does not exist in input data: "
                f"{str(sorted(data))[:_MAX_QUOTED]}, please check the request JSON"
            )


def _without_files(values: Any) -> Any:
    """Return values with each uploaded file as the urlsafe base64 that request_util.py makes of
    it: what graphs decode that take strings."""
    if not isinstance(values, list):
        return values
    return [
        base64.encode(value, urlsafe=True) if isinstance(value, memoryview) else value
        for value in values
    ]


def _with_integers(columns: Mapping[str, Any], servable: Servable) -> dict[str, Any]:
    """Return columns with `11.0` as the integer that it is to a model of integers: TensorFlow's
    sessions convert what they are fed, and upstream's own clients count on it."""
    converted = dict(columns)
    for spec in input_specs(servable):
        value = converted.get(spec.name)
        if isinstance(value, list) and spec.dtype in INTEGERS:
            # Lists that are no array are refused later, if the model takes none of unlike length.
            with suppress(ShapeMismatch):
                converted[spec.name] = whole(as_array(value, spec), spec)
    return converted


def _plain(array: Array) -> Any:
    array = widened(array)
    if array.dtype.kind == "f" and array.dtype.itemsize < 8:
        # jsonify writes the list that `tolist` makes, whose numbers are Python's.
        return array.astype(np.float64)
    return array
