"""What one of this server's models makes of a request: items, and what writes their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from rayserve_app.codecs.tensorflow.examples import Features
from rayserve_app.inference.servables import Servable
from rayserve_app.payloads.items import Encoded
from rayserve_app.protocols.tensorflow_serving.items import (
    read_features,
    read_inputs,
    read_instances,
)
from rayserve_app.protocols.tensorflow_serving.results import (
    classifications,
    outputs,
    predictions,
    regressions,
)
from rayserve_app.types import Row

Render: TypeAlias = Callable[[Sequence[Row]], bytes]


class Query(NamedTuple):
    """A parsed request: its items, and what writes their results."""

    servable: Servable
    items: Sequence[Encoded]
    render: Render


class Reader:
    """Makes of requests the items of one signature."""

    def __init__(self, servable: Servable) -> None:
        self._servable = servable
        self._outputs = servable.metadata.outputs

    def predict_rows(self, instances: Sequence[Any]) -> Query:
        render = partial(predictions, specs=self._outputs)
        return Query(self._servable, read_instances(instances, self._servable), render)

    def predict_columns(self, inputs: Any) -> Query:
        payload = read_inputs(inputs, self._servable)
        render = partial(outputs, specs=self._outputs, is_batch=payload.is_batch)
        return Query(self._servable, payload.items, render)

    def classify(self, examples: Sequence[Features]) -> Query:
        return self._read_features(examples, classifications)

    def regress(self, examples: Sequence[Features]) -> Query:
        return self._read_features(examples, regressions)

    def _read_features(self, examples: Sequence[Features], render: Render) -> Query:
        return Query(self._servable, read_features(examples, self._servable), render)
