"""Clipper's JSON: queries and feedback, predictions, and the words for what is wrong with them.

Sources: ucbrise/clipper, src/frontends/src/query_frontend.hpp and src/libclipper/src/json_util.cpp,
commit 9f25e3f.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from json import JSONDecodeError
from typing import Any, Final, NamedTuple

import numpy as np

from rayserve_app.codecs import json
from rayserve_app.codecs.json import MAX_DEPTH
from rayserve_app.codecs.plain_values import as_numpy, simplify, text_of, widened, with_text
from rayserve_app.errors import (
    DecodeError,
    InvalidRequest,
    PredictError,
    RequestTooLarge,
    ServingError,
    VersionNotFound,
    release,
)
from rayserve_app.payloads.inputs import Inputs
from rayserve_app.payloads.items import Encoded
from rayserve_app.payloads.outputs import json_value
from rayserve_app.protocols.protocol import Declined
from rayserve_app.types import Buffer, Reply, Row

# query_frontend.hpp, PREDICTION_JSON_SCHEMA and UPDATE_JSON_SCHEMA, to the letter.
SCHEMA: Final = '\n  {\n   "input" := [double] | [int] | [string] | [byte] | [float],\n  }\n'
UPDATE_SCHEMA: Final = (
    '\n  {\n   "uid" := string,\n   "input" := [double] | [int] | [string] | [byte] | [float],\n'
    '   "label" := double\n  }\n'
)

# json_util.cpp, kTypeNames of rapidjson: how messages call JSON's types; `True` and `False` are
# types of their own.
JSON_TYPES: Final = {
    type(None): "Null",
    dict: "Object",
    list: "Array",
    str: "String",
    int: "Number",
    float: "Number",
}

VECTORS: Final[Mapping[str, tuple[type, str]]] = {
    "integers": (int, "int"),
    "floats": (float, "float"),
    "doubles": (float, "double"),
}

TEXTS: Final = (("string", "raw"), ("bytes", "raw"))
"""Types and codecs of inputs that are one JSON string in Clipper."""

TEXTUAL: Final = frozenset({str, int, float})
"""What looks in Python as it looks in the text of a result."""

INT32: Final = range(-(2**31), 2**31)
INT64: Final = range(-(2**63), 2**63)


class MalformedQuery(InvalidRequest):
    """Clipper's `Json error`: the body is not what the API takes."""


class NoQuery(MalformedQuery):
    """It is not even an object with a query's keys: maybe another protocol's request."""


class Query(NamedTuple):
    """A parsed request: the items of each prediction that is asked for, or why it has none."""

    inputs: Sequence[list[Encoded] | DecodeError]
    is_batch: bool
    version: str | None


class Prediction(NamedTuple):
    """One answer: `explanation` is set where the default output stands in."""

    query_id: int
    output: Any
    explanation: str | None = None


def parse(
    body: Buffer, inputs: Inputs, *, inputs_of: Callable[[str], Inputs] | None = None
) -> Query:
    """Read a prediction request; `Content-Type` plays no part (json_util.cpp).

    `input` wins over `input_batch`; other keys are ignored.

    Args:
        inputs: reads the items where the query names no version.
        inputs_of: returns what reads them for the version that it names; `inputs` if None.
    Raises:
        MalformedQuery: with the cause as Clipper words it, where it has words for it; no query of
            a batch can be read.
        RequestTooLarge: more items or pixels than the model allows.
        VersionNotFound: what `inputs_of` raises.
        NoQuery: no object, or one without a query's keys.
        Declined: the body holds `instances` instead, as Cluster Serving's clients send.
    """
    try:
        fields = _decode_object(body)
    except DecodeError as exc:
        raise NoQuery(str(exc)) from exc
    try:
        version = fields.get("version")
        # null is no version here, for clients that write every field; upstream refuses it.
        if version is not None:
            _expect(version, "version", str)
            inputs = inputs_of(version) if inputs_of is not None else inputs
        if "input" in fields:
            return Query([_read(fields["input"], "input", inputs)], False, version)
        if "input_batch" not in fields:
            raise _without_keys(fields)
        batch = _expect(fields["input_batch"], "input_batch", list)
        inputs.check_count(len(batch))
        queries = [_read_element(value, index, inputs) for index, value in enumerate(batch)]
        inputs.check_count(sum(len(each) for each in queries if isinstance(each, list)))
        if queries and all(isinstance(each, DecodeError) for each in queries):
            assert isinstance(queries[0], DecodeError)
            raise queries[0]
    except (RequestTooLarge, VersionNotFound, NoQuery):
        raise
    except InvalidRequest as exc:
        raise MalformedQuery(str(exc)) from exc
    # A list of one is answered as if it were no list (query_frontend.hpp).
    return Query(queries, len(queries) != 1, version)


def parse_feedback(body: Buffer, inputs: Inputs) -> None:
    """Check a feedback request (query_frontend.hpp, decode_and_handle_update).

    Raises:
        MalformedQuery, RequestTooLarge: as for `parse`.
    """
    try:
        fields = _decode_object(body)
        for key in ("uid", "input", "label"):
            if key not in fields:
                raise DecodeError(f"JSON object does not have required key: {key}")
            if key == "input":
                _read(fields[key], key, inputs)
            else:
                _check_number(fields[key], key)
    except RequestTooLarge:
        raise
    except InvalidRequest as exc:
        raise MalformedQuery(str(exc)) from exc


def render(prediction: Prediction) -> bytes:
    """Write one prediction as a flat object, its keys in upstream's order. An output with NaN or
    an infinity is text, for upstream's parser knows none of them either (json_util.cpp)."""
    # `use_default` is the name in the documentation of 2018, `default` the one in every release.
    is_default = prediction.explanation is not None
    fields = {
        "query_id": prediction.query_id,
        "output": prediction.output,
        "default": is_default,
        "use_default": is_default,
    }
    if is_default:
        fields["default_explanation"] = prediction.explanation
    try:
        return json.encode(fields)
    except PredictError:
        fields["output"] = str(_python_value(prediction.output))
        return json.encode(fields)


def join(bodies: Sequence[bytes], *, is_batch: bool) -> bytes:
    """Write rendered predictions: one alone, `batch_predictions` for none or several."""
    return b'{"batch_predictions":[%s]}' % b",".join(bodies) if is_batch else bodies[0]


def explain(error: MalformedQuery, schema: str) -> str:
    """Say what is wrong with a body (query_frontend.hpp, json_error_msg)."""
    return f"Error parsing JSON: {error}. Expected JSON schema: {schema}"


def output_value(row: Row) -> Any:
    """Return the output in JSON: a closure's result goes through `str()` and is parsed again if
    it is JSON (rpc.py, json_util.cpp), so `1` is a value, `(749, 600)` a string. Mappings, lists
    and arrays, of which `str()` makes what is mostly no JSON, are JSON, named tensors too; bytes
    are the text that they hold, as in upstream on Python 2."""
    value = row.value
    if type(value) is tuple:
        value = value if TEXTUAL.issuperset(map(type, value)) else _python_value(value)
    elif type(value) not in TEXTUAL:
        is_whole = isinstance(row.outputs, Mapping) or isinstance(value, Reply)
        value = as_numpy(json_value(row))
        if is_whole or (isinstance(value, np.ndarray) and value.ndim):
            return value
        if isinstance(value, bytes | bytearray | memoryview):
            value = text_of(bytes(value))
        if isinstance(value, Mapping | list):
            return value
        if isinstance(value, np.generic):
            value = widened(np.asarray(value))[()]
    if type(value) is int:  # exact, which it would not be once parsed, beyond 64 bits
        return value
    try:
        return reparse(str(value))
    except ServingError:
        raise
    except Exception as exc:
        raise PredictError(f"The result has no text: {type(exc).__name__}: {exc}") from exc


def reparse(text: str) -> Any:
    """Return the JSON value that the text holds, else the text."""
    try:
        return json.decode(text)
    except DecodeError:
        return text


def _without_keys(fields: Mapping[str, Any]) -> Exception:
    error = NoQuery("JSON object does not have required keys input or input_batch")
    return Declined(error) if "instances" in fields else error


def _python_value(value: Any, depth: int = 0) -> Any:
    """Return a result without numpy's scalars, which in numpy 2 no longer look like numbers."""
    value = simplify(value)
    if depth > MAX_DEPTH:
        raise PredictError("A result is nested too deeply", expected=f"at most {MAX_DEPTH} levels")
    if isinstance(value, np.ndarray):
        value = with_text(value).tolist()
    if isinstance(value, dict):
        return {key: _python_value(each, depth + 1) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_python_value(each, depth + 1) for each in value])
    if isinstance(value, np.floating):
        return float(str(value))  # with as many digits as its own type needs
    if isinstance(value, np.generic):
        return value.item()
    return text_of(value) if isinstance(value, bytes) else value


def _decode_object(body: Buffer) -> dict[str, Any]:
    try:
        return json.decode_object(body)
    except DecodeError as exc:
        if isinstance(fault := exc.__cause__, JSONDecodeError):
            # json_util.cpp, parse_json: upstream's frame and line feed around the parser's words.
            problem = f"JSON parse error: {fault.msg} (offset {fault.pos})\n"
            raise DecodeError(problem) from fault
        raise


def _read(value: Any, key: str, inputs: Inputs) -> list[Encoded]:
    """Read the items of one query.

    base64 that is wrong is refused, which upstream decodes to garbage; either alphabet will do,
    with or without padding.
    """
    kind = inputs.settings.type
    if kind in VECTORS:
        _check_vector(_expect(value, key, list), kind)
    elif (kind, inputs.settings.codec) in TEXTS:
        _expect(value, key, str)
    return inputs.from_json_item(value, path=key)


def _read_element(value: Any, index: int, inputs: Inputs) -> list[Encoded] | DecodeError:
    """Read one query of a batch: upstream has other words for what is wrong with it."""
    _check_element(value, inputs)
    try:
        return _read(value, f"input_batch[{index}]", inputs)
    except DecodeError as exc:
        if not inputs.may_be_image:
            raise
        release(exc)
        return exc


def _check_element(value: Any, inputs: Inputs) -> None:
    kind = inputs.settings.type
    problem = "Array input of type"
    container: type
    if kind in VECTORS:
        container, name = list, "array"
    elif (kind, inputs.settings.codec) not in TEXTS:
        return
    elif kind == "string":
        container, name = str, "string"
    else:
        problem, container, name = "PredictionData of type", str, "base64-encoded string"
    if not isinstance(value, container):
        raise DecodeError(f"{problem} {_json_type(value)} is not of type {name}")


def _expect(value: Any, key: str, kind: type) -> Any:
    if not isinstance(value, kind):
        raise _mismatch(value, key, kind)
    return value


def _mismatch(value: Any, key: str, kind: type) -> DecodeError:
    # The missing space is upstream's.
    return DecodeError(
        f"Type mismatch! JSON key {key} expected type {JSON_TYPES[kind]}"
        f"but found type {_json_type(value)}"
    )


def _check_number(value: Any, key: str) -> None:
    """`uid` is an integer, whatever the schema says; `label` is a number (json_util.cpp, get_long,
    get_double, which takes no whole ones)."""
    if type(value) not in (int, float):
        raise _mismatch(value, key, float)
    if key == "uid" and not (isinstance(value, int) and value in INT64):
        raise DecodeError(f"PredictionData of type {_json_type(value)} is not of type long")


def _check_vector(values: list[Any], kind: str) -> None:
    """Integers must be written as such, and fit 32 bits. Whole numbers are floats and doubles too,
    unlike upstream (json_util.cpp, IsDouble): JavaScript writes 1.0 as `1`."""
    expected, name = VECTORS[kind]
    for value in values:
        is_right = type(value) is int and value in INT32
        if expected is float:
            is_right = type(value) in (int, float)
        if not is_right:
            raise DecodeError(f"Array input of type {_json_type(value)} is not of type {name}")


def _json_type(value: Any) -> str:
    return str(value) if isinstance(value, bool) else JSON_TYPES[type(value)]
