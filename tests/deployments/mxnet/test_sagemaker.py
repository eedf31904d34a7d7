"""Packages of the SageMaker MXNet container: Gluon blocks and Modules, with its default functions.

Expected answers: sagemaker-mxnet-inference-toolkit 1.5 with mxnet 1.9.1, and MXNet by hand.
"""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from skimage import data as photographs

from rayserve_app.app import App
from rayserve_app.artifacts.mxnet_environment import import_mxnet
from tests.deployments.packages import HERE, check_refused, served, write
from tests.protocols import call

mx = import_mxnet()

JSON, CSV, NPY = "application/json", "text/csv", "application/x-npy"


async def invoke(
    app: App, body: bytes | str, content_type: str, accept: str | None = None
) -> httpx.Response:
    headers = {"content-type": content_type} | ({} if accept is None else {"accept": accept})
    return await call(app, "POST", "/invocations", content=body, headers=headers)


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


SUMS = """
import mxnet as mx

def model_fn(model_dir):
    net = mx.gluon.nn.Dense(2, in_units=3)
    net.initialize(mx.init.One())
    return net
"""


@pytest.mark.parametrize(
    ("body", "content_type", "accept", "answer", "answer_type"),
    [
        ("[[1,2,3]]", JSON, None, b"[[6.0, 6.0]]", JSON),
        ("[[1,2,3]]", JSON, "text/csv, application/json", b"[[6.0, 6.0]]", f"{CSV}, {JSON}"),
        (npy(np.ones((1, 3), np.float32)), NPY, JSON, b"[[3.0, 3.0]]", JSON),
        ("[[1,2,3]]", JSON, NPY, npy(np.array([[6.0, 6.0]])), NPY),
    ],
)
async def test_a_gluon_block_has_the_containers_default_functions(
    tmp_path: Path,
    body: bytes | str,
    content_type: str,
    accept: str | None,
    answer: bytes,
    answer_type: str,
) -> None:
    with served(write(tmp_path, inference_py=SUMS), framework="mxnet") as app:
        response = await invoke(app, body, content_type, accept)
    assert response.status_code == 200, response.text
    assert (response.content, response.headers["content-type"]) == (answer, answer_type)


@pytest.mark.parametrize(("content_type", "accept"), [(CSV, JSON), (JSON, CSV), ("x/y", JSON)])
async def test_a_gluon_block_takes_no_csv(tmp_path: Path, content_type: str, accept: str) -> None:
    with served(write(tmp_path, inference_py=SUMS), framework="mxnet") as app:
        response = await invoke(app, "[[1,2,3]]", content_type, accept)
    assert response.status_code == 500
    assert response.text.startswith("Content type ")


async def test_an_image_embedding_server(tmp_path: Path) -> None:
    """Guide 2: the body is a bytearray for `mx.image.imdecode`; a list of floats comes back."""
    code = """
import json, os
import mxnet as mx

def model_fn(model_dir):
    net = mx.gluon.nn.GlobalAvgPool2D()
    net.initialize()
    return net

def input_fn(request_body, request_content_type):
    assert os.environ["modelname"] == "pool"
    image = mx.image.imdecode(request_body).astype("float32") / 255
    return image.transpose((2, 0, 1)).expand_dims(axis=0)

def predict_fn(input_object, model):
    return model(input_object)[0].reshape((-1,))

def output_fn(prediction, content_type):
    return json.dumps(prediction.asnumpy().tolist())
"""
    photograph = photographs.astronaut()
    jpeg = cv2.imencode(".jpg", photograph[..., ::-1])[1].tobytes()
    expected = mx.image.imdecode(jpeg).asnumpy().mean(axis=(0, 1)) / 255
    package = write(tmp_path, embed_py=code)
    environment = {"SAGEMAKER_PROGRAM": "embed.py", "modelname": "pool"}
    with served(package, framework="mxnet", environment=environment) as app:
        response = await invoke(app, jpeg, "image/jpeg")
    assert response.status_code == 200, response.text
    np.testing.assert_allclose(
        json.loads(response.content), expected, rtol=2e-3
    )  # it sums in float32


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A package with what the MXNet estimator saves: y = x W + 1, two inputs, one output."""
    symbol = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=1, name="fc")
    arguments = {"fc_weight": mx.nd.array([[2, 3]]), "fc_bias": mx.nd.array([1])}
    mx.model.save_checkpoint(str(tmp_path / "model"), 0, symbol, arguments, {})
    shapes = [{"name": "data", "shape": [1, 2]}]
    (tmp_path / "model-shapes.json").write_text(json.dumps(shapes))
    return write(tmp_path, inference_py="import json\n\ntransform_fn = None\n")


@pytest.mark.parametrize(
    ("first", "body", "content_type", "accept", "answer"),
    [
        ("1", "[[1, 2]]", JSON, JSON, b"[[9.0]]"),
        ("1", "1,2", CSV, JSON, b"[[9.0]]"),
        ("1", "[[1, 2]]", JSON, CSV, b"9.0\n"),
        ("3", "[[1, 2], [0, 0]]", JSON, JSON, b"[[9.0], [1.0]]"),
        ("1", "[[1, 2], [0, 0]]", JSON, JSON, b"[[9.0], [1.0]]"),
    ],
)
async def test_a_module_is_loaded_from_its_checkpoint(
    checkpoint: Path, first: str, body: str, content_type: str, accept: str, answer: bytes
) -> None:
    environment = {"SAGEMAKER_DEFAULT_MODEL_FIRST_DIMENSION_SIZE": first}
    settings: Any = {"framework": "mxnet", "contract": "toolkit", "environment": environment}
    with served(checkpoint, **settings) as app:
        response = await invoke(app, body, content_type, accept)
    assert response.content == answer


async def test_input_fn_of_a_module_may_take_the_model(checkpoint: Path) -> None:
    code = """
import json
import mxnet as mx

def input_fn(request_body, request_content_type, model):
    [(_, shape)] = model.data_shapes
    array = mx.nd.array(json.loads(request_body)).reshape(shape)
    return mx.io.NDArrayIter(array, batch_size=shape[0])
"""
    with served(write(checkpoint, inference_py=code), framework="mxnet") as app:
        response = await invoke(app, "[1, 2]", JSON)
    assert response.content == b"[[9.0]]"


def test_what_the_checkpoint_lacks_is_told(checkpoint: Path) -> None:
    (checkpoint / "model-shapes.json").unlink()
    check_refused(
        checkpoint,
        "missing file model-shapes.json",
        framework="mxnet",
        contract="toolkit",
    )


def test_another_kind_of_model_needs_functions_of_its_own(tmp_path: Path) -> None:
    shutil.copytree(HERE / "doubling", tmp_path / "p")
    check_refused(tmp_path / "p", "Unsupported model type.*got int", framework="mxnet")
