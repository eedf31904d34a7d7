"""MXNet 1.9.1: Gluon's model zoo, Gluon networks of one's own, and exported symbols.

Its replicas run in an environment of their own: rayserve_app/artifacts/mxnet_environment.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field, model_validator

from deployments.model_files import find_file
from deployments.mxnet import files
from deployments.mxnet.files import Network
from deployments.mxnet.graph import Graph
from deployments.replica.application import Application, build_application
from rayserve_app.artifacts.mxnet_environment import import_mxnet
from rayserve_app.artifacts.sources import fetch
from rayserve_app.errors import LoadError, PredictError, ShapeMismatch
from rayserve_app.inference.backend import Backend
from rayserve_app.inference.batch_arrays import stack
from rayserve_app.inference.named_inputs import check_one_shape, match_inputs
from rayserve_app.payloads.preprocessing import Preprocessing
from rayserve_app.payloads.tensors import fit
from rayserve_app.process.cores import available_cores
from rayserve_app.settings.model import FileSettings, InputSettings, parse_settings
from rayserve_app.types import Array, Item, Metadata, TensorSpec, describe


class MXNetSettings(FileSettings):
    """Parameters of a Gluon network that `zoo` or `module` makes; or, with neither of them, an
    exported pair: a directory, an archive or one of the files `NAME-symbol.json` and
    `NAME-0000.params`.
    """

    zoo: str | None = None
    """A network of `mxnet.gluon.model_zoo.vision`, like `resnet18_v2`."""
    module: str | None = None
    """`package.module:factory`, importable in the replica, makes the `gluon.HybridBlock`."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the network, like `classes: 10` for one of the zoo."""
    prefix: str | None = None
    """NAME of an exported pair, where a directory has several."""
    epoch: Annotated[int, Field(ge=0)] | None = None
    """Which parameters of an exported pair, where there are several; the last if not set."""
    layer: str | None = None
    """Answer what an inner part answers: a block of a Gluon network, like `features`, or
    `features.4` in a HybridSequential; an output of an exported one, like `relu1_output`."""

    @model_validator(mode="after")
    def _makes_one_network(self) -> Self:
        if self.zoo is not None and self.module is not None:
            raise ValueError("expected one of 'zoo' and 'module'")
        makes = self.zoo is not None or self.module is not None
        pair = [key for key in ("prefix", "epoch") if getattr(self, key) is not None]
        if makes and pair:
            raise ValueError(f"{pair[0]!r} is for exported pairs, not for 'zoo' or 'module'")
        if self.arguments and not makes:
            raise ValueError("'arguments' are for 'zoo' or 'module', not for exported pairs")
        if self.input.type not in ("image", "tensor", "tensors", "floats", "doubles", "integers"):
            raise ValueError(f"MXNet takes arrays, not input of type {self.input.type!r}")
        return self


def build(args: dict[str, Any]) -> Application:
    """Return the application of an MXNet model; `args` is the YAML's, with one key, `model`."""
    settings = parse_settings(MXNetSettings, args)
    return build_application(settings, partial(MXNetBackend, settings))


class MXNetBackend(Backend):
    """One graph, on the replica's GPU if it has one.

    An item is one array where the graph has one input, and a mapping of input name to array where
    it has several; none carries the batch axis. Items are stacked along axis 0.

    A Gluon network answers as its `layer` is called, or else `output` (`output_0`, `output_1`
    where it has several); an exported graph by its own names, without `_output`.
    """

    def __init__(self, settings: MXNetSettings) -> None:
        self._settings = settings
        self._graph: Graph | None = None
        self._names: tuple[str, ...] = ()
        self._inputs: dict[str, TensorSpec] = {}
        self._metadata = Metadata("mxnet")

    def load(self) -> None:
        settings = self._settings
        mx = import_mxnet(threads=settings.threads.compute or available_cores())
        context = _choose_context(mx)
        network = self._read(mx, context)
        self._graph = graph = Graph(mx, network.symbol, network.parameters, context)
        self._names = self._output_names(graph)
        if lacking := [name for name in settings.output.outputs if name not in self._names]:
            raise LoadError(
                "The model has no such output",
                expected=f"one of {', '.join(self._names)}",
                got=lacking[0],
                path="args.model.output.outputs",
            )
        self._describe(graph)

    def predict(self, items: Sequence[Item]) -> dict[str, Array]:
        """Run one batch.

        Returns: the chosen outputs by name, in their order, axis 0 being the items, of MXNet's
            types: float32 unless the parameters are of another.
        Raises:
            ShapeMismatch: an item's inputs, types or shapes are not the graph's.
            PredictError: an operation failed, or an output lacks the batch axis.
        """
        if self._graph is None:
            raise PredictError("The model is not loaded")
        rows = [self._row(item) for item in items]
        feed = {name: _stack(name, [row[name] for row in rows]) for name in self._inputs}
        answers = dict(zip(self._names, self._graph(feed), strict=True))
        for name, array in answers.items():
            if array.shape[:1] != (len(rows),):
                raise PredictError(
                    "An output lacks the batch axis",
                    expected=f"{len(rows)} along axis 0",
                    got=describe(array),
                    path=name,
                )
        return {name: answers[name] for name in self._settings.output.outputs or self._names}

    def metadata(self) -> Metadata:
        """Describe the loaded graph; an input of unknown shape, which only the YAML says, has the
        shape (), and so have then the outputs."""
        return self._metadata

    def close(self) -> None:
        if self._graph is not None:
            self._graph.close()
        self._graph = None

    def _read(self, mx: Any, context: Any) -> Network:
        settings = self._settings
        path = fetch(settings.path, sha256=settings.sha256)
        if settings.zoo is None and settings.module is None:
            pair = files.find_pair(path, prefix=settings.prefix, epoch=settings.epoch)
            network = files.read_pair(mx, pair, context)
            return files.cut(network, settings.layer) if settings.layer else network
        if settings.zoo is not None:
            block = files.make_zoo_block(mx, settings.zoo, settings.arguments)
        else:
            block = files.make_block(mx, settings.module or "", settings.arguments)
        file = find_file(path, files.PARAMETERS_SUFFIX)
        files.read_block(mx, file, block, context)
        return files.trace(mx, block, settings.layer, context)

    def _output_names(self, graph: Graph) -> tuple[str, ...]:
        settings = self._settings
        if settings.zoo is None and settings.module is None:
            return tuple(graph.outputs)
        # Gluon's own names count the networks that a process has made.
        name = settings.layer or "output"
        count = len(graph.outputs)
        return (name,) if count == 1 else tuple(f"{name}_{index}" for index in range(count))

    def _describe(self, graph: Graph) -> None:
        declared = self._settings.input
        shape = _declared_shape(declared) if len(graph.inputs) == 1 else None
        dtype = declared.dtype if len(graph.inputs) == 1 else None
        self._inputs = {
            name: TensorSpec(name, dtype or own, () if shape is None else (-1, *shape))
            for name, own in graph.inputs.items()
        }
        shapes: dict[str, tuple[int, ...]] = {}
        if shape is not None and -1 not in shape:
            shapes = _infer_shapes(graph, shape)
        outputs = tuple(
            TensorSpec(name, dtype, (-1, *shapes[own][1:]) if shapes else ())
            for name, (own, dtype) in zip(self._names, graph.outputs.items(), strict=True)
        )
        chosen = self._settings.output.outputs
        self._metadata = Metadata(
            "mxnet",
            inputs=tuple(self._inputs.values()),
            outputs=tuple(outputs[self._names.index(name)] for name in chosen or self._names),
        )

    def _row(self, item: Item) -> dict[str, Array]:
        """Return an item's checked array for each input, without the batch axis."""
        if isinstance(item, Mapping) and self._settings.input.type == "image":
            item = item["data"]  # of an image with metadata
        values = match_inputs(item, self._inputs)
        return {name: fit(np.asarray(values[name]), spec) for name, spec in self._inputs.items()}


def _choose_context(mx: Any) -> Any:
    """Return the replica's GPU, where Ray has given it one and MXNet is built for GPUs."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") and mx.context.num_gpus():
        return mx.gpu(0)
    return mx.cpu()


def _declared_shape(declared: InputSettings) -> tuple[int, ...] | None:
    """Return one item's shape, as far as the YAML says it."""
    if declared.type == "image":
        return Preprocessing(declared).shape
    return declared.shape


def _infer_shapes(graph: Graph, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    try:
        return graph.infer_shapes(dict.fromkeys(graph.inputs, (1, *shape)))
    except ShapeMismatch as exc:
        raise LoadError(
            "The parameters do not fit the graph, or the declared input does not",
            expected=exc.expected,
            got=exc.got,
            path="args.model.input",
        ) from exc.__cause__


def _stack(name: str, arrays: list[Array]) -> Array:
    check_one_shape(arrays, name)
    return stack(arrays)
