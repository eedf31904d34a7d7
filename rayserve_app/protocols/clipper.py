"""Clipper's query API, as ucbrise/clipper 0.4 speaks it.

Sources: src/frontends/src/query_frontend.hpp (routes, replies, error texts) and
containers/python/rpc.py (what becomes of a closure's results), commit 9f25e3f.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any, ClassVar, Final, NamedTuple

from rayserve_app.batching import Result
from rayserve_app.codecs import json
from rayserve_app.encoded_inputs import Encoded
from rayserve_app.errors import (
    DeadlineExceeded,
    DecodeError,
    InvalidRequest,
    PredictError,
    RequestTooLarge,
    ServingError,
    VersionNotFound,
)
from rayserve_app.http import Request, Response, retry_headers, status_of
from rayserve_app.inputs import Inputs
from rayserve_app.model import Model
from rayserve_app.outputs import json_value, text_bytes
from rayserve_app.protocols.protocol import Protocol, Route
from rayserve_app.types import Buffer, Row

# query_frontend.hpp, PREDICTION_JSON_SCHEMA, to the letter.
SCHEMA: Final = '\n  {\n   "input" := [double] | [int] | [string] | [byte] | [float],\n  }\n'

# query_processor.cpp, the explanation of a default that the timer caused.
DEADLINE_EXPLANATION: Final = (
    "Failed to retrieve a prediction response within the specified latency SLO"
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
    "integers": (int, "integer"),
    "floats": (float, "float"),
    "doubles": (float, "double"),
}


INT32: Final = range(-(2**31), 2**31)


class MalformedQuery(InvalidRequest):
    """Clipper's `Json error`: the body is not what the API takes."""


class Query(NamedTuple):
    """A parsed request: the items of each prediction that is asked for."""

    inputs: list[list[Encoded]]
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
        MalformedQuery: with the cause as Clipper words it, where it has words for it.
        RequestTooLarge: more items or pixels than the model allows.
        VersionNotFound: what `inputs_of` raises.
    """
    try:
        fields = json.decode_object(body)
        version = fields.get("version")
        if version is not None:
            _expect(version, "version", str)
            inputs = inputs_of(version) if inputs_of is not None else inputs
        if "input" in fields:
            return Query([_read(fields["input"], "input", inputs)], False, version)
        if "input_batch" not in fields:
            raise DecodeError("JSON object does not have required keys input or input_batch")
        batch = _expect(fields["input_batch"], "input_batch", list)
        inputs.check_count(len(batch))
        queries = [_read(v, f"input_batch[{i}]", inputs) for i, v in enumerate(batch)]
        inputs.check_count(sum(map(len, queries)))
    except (RequestTooLarge, VersionNotFound):
        raise
    except InvalidRequest as exc:
        raise MalformedQuery(str(exc)) from exc
    # A list of one is answered as if it were no list (query_frontend.hpp).
    return Query(queries, len(queries) != 1, version)


def render(prediction: Prediction) -> bytes:
    """Write one prediction as a flat object, its keys in upstream's order."""
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
    return json.encode(fields)


def join(bodies: Sequence[bytes], *, is_batch: bool) -> bytes:
    """Write rendered predictions: one alone, `batch_predictions` for none or several."""
    return b'{"batch_predictions":[%s]}' % b",".join(bodies) if is_batch else bodies[0]


def output_value(row: Row) -> Any:
    """Return the output in JSON: a closure's result goes through `str()` and is parsed again if
    it is JSON (rpc.py, json_util.cpp), so `1` and `[1, 2]` are values, `(749, 600)` a string.
    Named tensors, which Clipper does not know, are lists."""
    if isinstance(row.outputs, Mapping):
        return json_value(row)
    try:
        text = str(row.value)
    except Exception as exc:
        raise PredictError(f"The result has no text: {type(exc).__name__}: {exc}") from exc
    return reparse(text)


def reparse(text: str) -> Any:
    """Return the JSON value that the text holds, else the text."""
    try:
        return json.decode(text)
    except DecodeError:
        return text


class Clipper(Protocol):
    """Clipper's predict route for one model, which is its own application."""

    name: ClassVar[str] = "clipper"

    # query_frontend.hpp: "^/<app>/predict[/]?$"
    ROUTES: ClassVar = (
        Route("POST", "/predict", "predict"),
        Route("POST", "/predict/", "predict"),
    )

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        # query_processor.cpp: one counter per process, from 0.
        self._query_ids = count()

    async def predict(self, request: Request) -> Response:
        self.model.check_admission()
        body = await request.body()
        reading = partial(parse, body, self.model.inputs, inputs_of=self._inputs_of)
        query = await self.model.offload(reading, len(body))
        servable = self.model.select(query.version)
        items = [item for inputs in query.inputs for item in inputs]
        results: list[Result]
        try:
            results = await self.model.predict(items, servable=servable, timing=request.timing)
        except DeadlineExceeded as exc:
            results = [exc] * len(items)
        rows = [result for result in results if isinstance(result, Row)]
        answer = await self.model.offload(
            partial(self._render, query, results), text_bytes(rows, "json")
        )
        return Response(answer, media_type="application/json")

    def render_error(self, error: ServingError) -> Response:
        """Errors are `{"error", "cause"}` (query_frontend.hpp, json_error)."""
        kind, cause = "Query processing error", str(error)
        if isinstance(error, MalformedQuery):
            kind = "Json error"
            cause = f"Error parsing JSON: {error}. Expected JSON schema: {SCHEMA}"
        elif isinstance(error, VersionNotFound):
            cause = f"Requested version: {_unquote(error.got)} does not exist for model: "
            cause += self.model.name
        body = json.encode({"error": kind, "cause": cause})
        # Upstream answers 400 to every fault of the caller; too large, too slow and not ready
        # are ours, and keep the statuses that HTTP has for them. VersionNotFound: 400.
        status = 400 if isinstance(error, VersionNotFound) else status_of(error)
        return Response(
            body, status=status, media_type="application/json", headers=retry_headers(error)
        )

    def _inputs_of(self, version: str) -> Inputs:
        return self.model.select(version).inputs

    def _render(self, query: Query, results: Sequence[Result]) -> bytes:
        remaining = iter(results)
        bodies = [self._render_one([next(remaining) for _ in inputs]) for inputs in query.inputs]
        return join(bodies, is_batch=query.is_batch)

    def _render_one(self, results: Sequence[Result]) -> bytes:
        """Write one prediction; any error, of writing it too, makes it the default output."""
        query_id = next(self._query_ids)
        try:
            outputs = [output_value(_row(result)) for result in results]
            return render(Prediction(query_id, outputs[0] if len(outputs) == 1 else outputs))
        except ServingError as exc:
            return render(self._default(query_id, exc))

    def _default(self, query_id: int, error: ServingError) -> Prediction:
        is_late = isinstance(error, DeadlineExceeded)
        self.model.recorder.defaults["deadline" if is_late else "error"] += 1
        default = self.model.settings.deadline.default_output
        output = reparse(default) if isinstance(default, str) else default
        return Prediction(query_id, output, DEADLINE_EXPLANATION if is_late else str(error))


def _row(result: Result) -> Row:
    if isinstance(result, ServingError):
        raise result
    return result


def _read(value: Any, key: str, inputs: Inputs) -> list[Encoded]:
    kind = inputs.settings.type
    if kind in VECTORS:
        _check_vector(_expect(value, key, list), kind)
    elif (kind, inputs.settings.codec) in (("string", "raw"), ("bytes", "raw")):
        _expect(value, key, str)
    return inputs.from_json_item(value, path=key)


def _expect(value: Any, key: str, kind: type) -> Any:
    if not isinstance(value, kind):
        # The missing space is upstream's.
        raise DecodeError(
            f"Type mismatch! JSON key {key.partition('[')[0]} expected type {JSON_TYPES[kind]}"
            f"but found type {_json_type(value)}"
        )
    return value


def _check_vector(values: list[Any], kind: str) -> None:
    """Every element must be written as the type is: `5` is no double (json_util.cpp, IsDouble)."""
    expected, name = VECTORS[kind]
    for value in values:
        if type(value) is not expected or (expected is int and value not in INT32):
            raise DecodeError(f"Array input of type {_json_type(value)} is not of type {name}")


def _json_type(value: Any) -> str:
    return str(value) if isinstance(value, bool) else JSON_TYPES[type(value)]


def _unquote(text: str | None) -> str:
    return (text or "").strip("'\"")
