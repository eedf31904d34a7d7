"""What the SageMaker MXNet container adds to the inference toolkit: default functions for Gluon
blocks and for Modules.

Source: aws/sagemaker-mxnet-inference-toolkit 1.5, default_inference_handler.py,
handler_service.py, utils.py. Unlike upstream, `model_fn` runs once.
"""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any, Final

from deployments.sagemaker import toolkit_formats as formats
from deployments.sagemaker.inference_toolkit import Defaults, Function
from rayserve_app.artifacts.mxnet_environment import import_mxnet
from rayserve_app.errors import LoadError

# default_inference_handler.py, DEFAULT_MODEL_FILENAMES.
FILES: Final = ("model-symbol.json", "model-0000.params", "model-shapes.json")

GLUON_TYPES: Final = (formats.JSON, formats.NPY)
MODULE_TYPES: Final = (formats.JSON, formats.CSV, formats.NPY)

# The container sets these where the user does not.
THREAD_VARIABLES: Final = (
    "MXNET_CPU_WORKER_NTHREADS",
    "MXNET_CPU_PRIORITY_NTHREADS",
    "MXNET_KVSTORE_REDUCTION_NTHREADS",
    "OMP_NUM_THREADS",
)


def mxnet_defaults(*, threads: int = 0) -> Defaults:
    """Import MXNet, and return the functions that stand in for those a package lacks.

    Args:
        threads: how many compute one operation; 0 for what the environment says, else 1.
    Raises:
        MissingDependency: MXNet is not installed in this replica's environment.
    """
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, "1")
    mxnet = import_mxnet(threads=threads)
    return Defaults(partial(_load_checkpoint, mxnet), partial(_choose, mxnet))


def _choose(mxnet: Any, model: Any) -> tuple[Function, Function | None, Function]:
    """Return `input_fn`, `predict_fn`, `output_fn` for the kind of model (handler_service.py)."""
    if isinstance(model, mxnet.module.BaseModule):
        output_fn = partial(_write, MODULE_TYPES)
        return _with_model(mxnet), lambda data, model: model.predict(data), output_fn
    if isinstance(model, mxnet.gluon.block.Block):
        input_fn = partial(_read, mxnet, GLUON_TYPES)
        return input_fn, lambda data, model: model(data), partial(_write, GLUON_TYPES)
    raise LoadError(
        "Unsupported model type",
        expected="model_fn to return an mxnet.module.BaseModule or an mxnet.gluon.Block",
        got=type(model).__name__,
        remedy="Write transform_fn for a model of another kind.",
    )


def _load_checkpoint(mxnet: Any, model_dir: str) -> Any:
    """Bind the Module that the MXNet estimator saves by default."""
    directory = Path(model_dir)
    missing = [name for name in FILES if not (directory / name).is_file()]
    if missing:
        raise ValueError(
            f"Failed to load model with default model_fn: missing file {missing[0]}."
            f" Expected files: {list(FILES)}"
        )
    signature = json.loads((directory / "model-shapes.json").read_text())
    first = int(os.environ.get("SAGEMAKER_DEFAULT_MODEL_FIRST_DIMENSION_SIZE", "1"))
    shapes = [(each["name"], [first, *each["shape"][1:]]) for each in signature]
    symbol, arguments, auxiliary = mxnet.model.load_checkpoint(str(directory / "model"), 0)
    module = mxnet.mod.Module(
        symbol=symbol,
        context=mxnet.cpu(),
        data_names=[name for name, _ in shapes],
        label_names=None,
    )
    module.bind(for_training=False, data_shapes=shapes)
    module.set_params(arguments, auxiliary, allow_missing=True)
    return module


def _read(mxnet: Any, known: tuple[str, ...], data: Any, content_type: str) -> Any:
    if content_type not in known:
        raise formats.UnsupportedFormatError(content_type)
    return mxnet.nd.array(formats.decode(data, content_type))


def _with_model(mxnet: Any) -> Function:
    """Return the `input_fn` for Modules, whose batch size is bound: fewer rows are padded."""

    def input_fn(data: Any, content_type: str, model: Any) -> Any:
        array = _read(mxnet, MODULE_TYPES, data, content_type)
        [(_, shape)] = model.data_shapes
        if content_type == formats.CSV:
            array = array.reshape(shape)
        padding = max(0, shape[0] - array.shape[0])
        if padding:
            zeros = mxnet.nd.zeros((padding, *array.shape[1:]))
            array = mxnet.nd.concat(array, zeros, dim=0)
        rows = mxnet.io.NDArrayIter(array, batch_size=shape[0], last_batch_handle="pad")
        if padding:
            # `Module.predict` leaves out the last `getpad()` rows.
            rows.getpad = lambda: padding
        return rows

    return input_fn


def _write(known: tuple[str, ...], prediction: Any, accept: str) -> bytes | str:
    """Write a prediction as lists of floats, so that `.npy` holds float64; the answer's type is the
    whole `Accept`."""
    content_type = formats.first_accepted(accept, known)
    return formats.encode(prediction.asnumpy().tolist(), content_type)
