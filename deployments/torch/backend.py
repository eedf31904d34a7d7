"""PyTorch: TorchScript, torch.export archives, state dicts, safetensors and pickled modules."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from deployments import model_files
from deployments.replica.application import Application, build_application
from deployments.torch import files
from deployments.torch.answers import Answers, ResultsAs, replaced
from deployments.torch.arguments import Arguments, BatchAs
from deployments.torch.classes import ClassSettings, best_classes, read_labels
from deployments.torch.devices import Device, choose_device, import_torch, set_threads
from deployments.torch.files import RUNS_CODE, SUFFIXES, Format, first_line, remedy_of
from deployments.torch.images import DeviceNormalization, choose_normalization
from deployments.torch.program import Program
from rayserve_app.artifacts.sources import fetch
from rayserve_app.errors import LoadError, PredictError, ShapeMismatch
from rayserve_app.inference.backend import Backend
from rayserve_app.payloads.normalization import declared_normalization
from rayserve_app.payloads.tensors import fit
from rayserve_app.process.cores import available_cores
from rayserve_app.settings.model import FileSettings, parse_settings
from rayserve_app.types import Array, Item, Metadata, Outputs, TensorSpec, describe


class TorchSettings(FileSettings):
    """A file of PyTorch, or of safetensors.

    `output.outputs` names the tensors of a tuple, or chooses among those of a mapping.
    """

    format: Format | None = None
    """What the file is, if its contents should not tell."""
    module: str | None = None
    """For weights alone: `package.module:factory`, importable in the replica, makes the
    `torch.nn.Module` that they are for."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the factory."""
    trusted: bool = False
    """Allows formats `pickle` and `export`, which can run whatever the file's writer put there."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the weights, and of inputs that are floats; integers stay integers. What the model
    answers in half precision is sent as float32. torch.export archives keep their own types."""
    channels_last: bool = False
    """Keep images as NHWC in memory, which many convolutions are faster on; shapes stay NCHW."""
    normalize_on_device: bool | None = None
    """Whether images are scaled by `scale`, `mean` and `std` where the model runs, and are uint8
    until then; without it, on a GPU only."""
    classes: ClassSettings | None = None
    """Answer the best classes of the model's first output, by name."""
    batch_as: BatchAs | None = None
    """Whether the module takes a batch as one tensor, or as a list of one tensor for each item,
    which may then have different shapes, as detectors do. Read off TorchScript and annotations if
    not set."""
    results_as: ResultsAs | None = None
    """What a list is that the module answers: its `outputs`, or the results of the `items`. If not
    set, the results where it is a list of mappings."""

    @model_validator(mode="after")
    def _is_safe_and_whole(self) -> Self:
        if self.format in RUNS_CODE and not self.trusted:
            raise ValueError(
                f"'format: {self.format}' can run code from a file: it needs 'trusted: true'"
            )
        if self.format in ("state_dict", "safetensors") and self.module is None:
            raise ValueError(f"'format: {self.format}' is weights alone: it needs 'module'")
        if self.normalize_on_device is not None and declared_normalization(self.input) is None:
            raise ValueError(
                "'normalize_on_device' needs 'scale', 'mean' or 'std' of images in 'input'"
            )
        if self.input.type in ("bytes", "string"):
            raise ValueError(f"PyTorch takes arrays, not input of type {self.input.type!r}")
        return self


def build(args: dict[str, Any]) -> Application:
    """Return the application of a PyTorch model; `args` is the YAML's, with one key, `model`."""
    settings = parse_settings(TorchSettings, args)
    return build_application(settings, partial(TorchBackend, settings))


class TorchBackend(Backend):
    """One module in evaluation mode, on the replica's GPU if it has one.

    An item is one array, which becomes the module's first argument, or a mapping of argument name
    to array; none carries the batch axis. Items are stacked along axis 0. Images that are uint8 are
    normalised as a batch where it `normalizes_images`. On a CPU, a module that writes into its
    arguments writes into the items, which are used again if their batch fails.

    Answers are as torch_answers.py says.
    """

    def __init__(self, settings: TorchSettings) -> None:
        self._settings = settings
        self._torch: Any = None
        self._device: Device | None = None
        self._module: Any = None
        self._program: Program | None = None
        self._normalize: DeviceNormalization | None = None
        self._labels: tuple[str, ...] = ()
        self._arguments = Arguments(None)
        self._answers: Answers | None = None

    def load(self) -> None:
        settings = self._settings
        path = model_files.find_file(fetch(settings.path, sha256=settings.sha256), *SUFFIXES)
        format = settings.format or files.detect_format(
            path, is_whole=settings.trusted and settings.module is None
        )
        files.check_trust(path, format, trusted=settings.trusted)
        self._torch = torch = import_torch()
        self._answers = Answers(torch.Tensor, settings.output.outputs, settings.results_as)
        set_threads(torch, settings.threads.compute or available_cores())
        self._device = choose_device(torch)
        if settings.classes is not None:
            self._labels = read_labels(settings.classes.labels)
        self._create(path, format, self._device.device)
        self._normalize = choose_normalization(
            torch,
            self._device.device,
            settings.input,
            on_device=settings.normalize_on_device,
            specs=self._program.inputs if self._program else (),
        )
        self.normalizes_images = self._normalize is not None
        self._device.synchronize()

    def _create(self, path: Path, format: Format, device: Any) -> None:
        torch, settings = self._torch, self._settings
        if format == "export":
            self._check_precision()
            assert self._answers is not None
            program = files.load_program(torch, path, device)
            self._program = Program(program, self._answers.named)
            self._module = program.module()
            self._arguments = Arguments.of_tensors([spec.name for spec in self._program.inputs])
            return
        if format == "torchscript":
            module = files.load_torchscript(torch, path, device)
        elif format == "pickle":
            module = files.load_pickle(torch, path, device)
        else:
            module = files.load_weights(
                torch, path, format, settings.module, settings.arguments, trusted=settings.trusted
            )
        layout = torch.channels_last if settings.channels_last else torch.preserve_format
        self._module = module.to(device, getattr(torch, settings.precision), memory_format=layout)
        self._arguments = Arguments.of_module(torch, module, settings.batch_as)

    def predict(self, items: Sequence[Item]) -> Outputs:
        """Run one batch.

        Returns: the outputs by name, axis 0 being the items, or a list of each item's result, such
            as a detector's mapping of arrays; float32 where the model answers half precision,
            otherwise of its own types; with `classes` a list of the best per item.
        Raises:
            ShapeMismatch: an item's arguments, types or shapes are not the model's.
            PredictError: the model failed, or answered something without the batch axis.
        """
        if self._module is None:
            raise PredictError("The model is not loaded")
        rows = [self._row(item) for item in items]
        most = (self._program and self._program.most_items) or len(rows)
        pieces = [self._call(rows[start : start + most]) for start in range(0, len(rows), most)]
        outputs = _joined(pieces)
        classes = self._settings.classes
        if classes is None:
            return outputs
        if not isinstance(outputs, Mapping):
            raise PredictError(
                "The model answers no table of scores",
                expected="a score for each label",
                got="a result of its own for each item",
                path="args.model.classes",
            )
        scores = next(iter(outputs.values()))
        return best_classes(scores, self._labels, top_n=classes.top_n, softmax=classes.softmax)

    def bucket(self, item: Item) -> Hashable:
        """Return a key that items must share; images of any shape where the module takes lists."""
        return self._arguments.bucket(item)

    def metadata(self) -> Metadata:
        """Describe the loaded model: torch.export archives know their inputs and outputs, of other
        files only the YAML says something."""
        if self._program is None:
            return Metadata("pytorch", inputs=self._declared_inputs())
        outputs = () if self._settings.classes else self._program.outputs
        return Metadata("pytorch", inputs=self._program.inputs, outputs=outputs)

    def close(self) -> None:
        self._module = self._program = None

    def _declared_inputs(self) -> tuple[TensorSpec, ...]:
        declared = self._settings.input
        if declared.type != "tensor" or declared.shape is None:
            return ()
        return (TensorSpec("input", declared.dtype or "float32", (-1, *declared.shape)),)

    def _check_precision(self) -> None:
        if self._settings.precision != "float32":
            raise LoadError(
                "The types of a torch.export archive are fixed",
                expected="no `precision`",
                got=self._settings.precision,
                path="args.model.precision",
                remedy="Convert the module before `torch.export.export`.",
            )

    def _row(self, item: Item) -> dict[str, Array]:
        """Return an item's checked array for each argument, without the batch axis; an array
        alone has no name, or that of a program's one input."""
        if isinstance(item, Mapping) and self._settings.input.type == "image":
            item = item["data"]  # of an image with metadata
        program = self._program
        if program is None and not isinstance(item, Mapping):
            item = {"": item}
        else:
            item = self._arguments.match(item)
        if program is not None:
            normalize = self._normalize
            is_pixels = normalize is not None and all(map(normalize.takes, item.values()))
            return program.row(item, is_pixels=is_pixels)
        return {name: _number_array(name, value) for name, value in item.items()}

    def _call(self, rows: Sequence[Mapping[str, Array]]) -> dict[str, Array] | list[Any]:
        assert self._device is not None
        padding = max(self._program.least_items - len(rows), 0) if self._program else 0
        padded = [*rows, *[rows[-1]] * padding]
        torch = self._torch
        try:
            with self._device.stream(), torch.inference_mode():
                feed = {name: self._send(name, padded) for name in rows[0]}
                outputs = self._fetch(
                    self._forward(feed), len(padded), any(map(self._arguments.takes_list, feed))
                )
        except (RuntimeError, torch.jit.Error) as exc:
            raise PredictError(
                "The model failed",
                got=f"{type(exc).__name__}: {first_line(exc)}",
                remedy=remedy_of(exc, self._settings.input),
            ) from exc
        if isinstance(outputs, list):
            return outputs[: len(rows)]
        return {name: array[: len(rows)] for name, array in outputs.items()}

    def _fetch(self, answer: Any, count: int, takes_list: bool) -> dict[str, Array] | list[Any]:
        """Return what the module answered to `count` items, as arrays."""
        assert self._device is not None
        assert self._answers is not None
        results = self._answers.items(answer, takes_list=takes_list)
        if results is None:
            outputs = self._answers.named(answer)
            self._check_batch_axis(outputs, count)
            return self._device.fetch(
                {name: self._answerable(tensor) for name, tensor in outputs.items()}
            )
        if len(results) != count:
            raise PredictError(
                "The model answered another number of results",
                expected=f"{count}, one for each item",
                got=str(len(results)),
                remedy="If they are outputs of the whole batch: set `results_as: outputs`",
            )
        tensors: list[Any] = []
        replaced(results, self._torch.Tensor, tensors.append)
        arrays = self._device.fetch(
            {str(index): self._answerable(tensor) for index, tensor in enumerate(tensors)}
        )
        in_order = iter(arrays.values())
        fetched: list[Any] = replaced(results, self._torch.Tensor, lambda _: next(in_order))
        return fetched

    def _forward(self, feed: Mapping[str, Any]) -> Any:
        if self._program is not None:
            args, kwargs = self._program.bind(feed)
            return self._module(*args, **kwargs)
        if "" in feed:
            return self._module(feed[""])
        return self._module(**feed)

    def _send(self, name: str, rows: Sequence[Mapping[str, Array]]) -> Any:
        arrays = [row[name] for row in rows]
        if self._arguments.takes_list(name):
            return [self._tensor([array])[0] for array in arrays]
        if len({(array.shape, array.dtype) for array in arrays}) > 1:
            raise ShapeMismatch(
                "The items of one batch are unlike",
                expected="one shape and type",
                got=", ".join(sorted({describe(array) for array in arrays})),
                path=name,
            )
        return self._tensor(arrays)

    def _tensor(self, arrays: Sequence[Array]) -> Any:
        """Return arrays of one shape and type as one tensor of the module's type."""
        assert self._device is not None
        tensor = self._device.send(arrays)
        if self._settings.channels_last and tensor.ndim == 4:
            tensor = tensor.contiguous(memory_format=self._torch.channels_last)
        if self._normalize is not None and self._normalize.takes(arrays[0]):
            tensor = self._normalize(tensor)
        if self._program is None and tensor.is_floating_point():
            tensor = tensor.to(getattr(self._torch, self._settings.precision))
        return tensor

    def _answerable(self, tensor: Any) -> Any:
        is_half = tensor.dtype in (self._torch.bfloat16, self._torch.float16)
        return (tensor.float() if is_half else tensor).detach()

    def _check_batch_axis(self, answers: Mapping[str, Any], count: int) -> None:
        for name, tensor in answers.items():
            if tuple(tensor.shape[:1]) != (count,):
                raise PredictError(
                    "An output lacks the batch axis",
                    expected=f"{count} along axis 0",
                    got=str(tuple(tensor.shape)),
                    remedy="If the model answers a result for each item: set `results_as: items`"
                    if name.startswith("output_")
                    else None,
                    path=name,
                )


def _joined(pieces: Sequence[dict[str, Array] | list[Any]]) -> dict[str, Array] | list[Any]:
    """Return the outputs, or the results, of a batch that ran in pieces."""
    first = pieces[0]
    if len(pieces) == 1:
        return first
    if isinstance(first, list):
        return [result for piece in pieces for result in piece]
    columns: Any = pieces
    return {name: np.concatenate([each[name] for each in columns]) for name in first}


def _number_array(name: str, value: Any) -> Array:
    """Return an item's value as an array of floats, which are float32, or of integers."""
    array = np.asarray(value)
    spec = TensorSpec(name, "float32" if array.dtype.kind == "f" else "", ())
    fitted = fit(array, spec)
    if fitted.dtype.kind == "c":
        raise ShapeMismatch("The model takes no complex numbers", got=describe(array), path=name)
    return fitted.astype(fitted.dtype.newbyteorder("="), copy=False)
