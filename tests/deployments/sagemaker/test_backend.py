"""Packages of the SageMaker inference toolkit, and packages that cannot be served."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import sys
import tarfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from skimage import data as photographs

from deployments.sagemaker.backend import SageMakerSettings
from rayserve_app.app import App
from rayserve_app.errors import ConfigurationError
from rayserve_app.settings.model import parse_settings
from tests.deployments.packages import HERE, check_refused, served, write
from tests.protocols import call

ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"


async def invoke(
    app: App, body: bytes | str, content_type: str | None = None, accept: str | None = None
) -> httpx.Response:
    headers = {"content-type": content_type, "accept": accept}
    given = {name: value for name, value in headers.items() if value is not None}
    return await call(app, "POST", "/invocations", content=body, headers=given)


class Absent:
    """A module that is not installed, whatever this environment has."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] == self.name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


JSON, CSV, NPY = "application/json", "text/csv", "application/x-npy"


# What sagemaker-inference 1.10.1 itself answers for this package: Transformer().transform with
# the context of multi-model-server.
@pytest.mark.parametrize(
    ("body", "content_type", "accept", "answer", "answer_type"),
    [
        ("[1,2,3]", JSON, None, b"[2, 4, 6]", JSON),
        ("[1,2,3]", JSON, "*/*", b"[2, 4, 6]", JSON),
        ("[[1.5],[0.1]]", JSON, JSON, b"[[3.0], [0.2]]", JSON),
        ("1,2,3\n4,5,6", CSV, CSV, b"2,4,6\n8,10,12\n", CSV),
        ("1.5,2.5", CSV, CSV, b"3.0\n5.0\n", CSV),
        (
            npy(np.arange(3, dtype=np.float32)),
            NPY,
            "unsupported/type, application/json",
            b"[0.0, 2.0, 4.0]",
            JSON,
        ),
        ("[1,2]", JSON, NPY, npy(np.array([2, 4])), NPY),
    ],
)
async def test_the_default_functions_answer_as_the_toolkit_does(
    body: bytes | str, content_type: str, accept: str | None, answer: bytes, answer_type: str
) -> None:
    with served("doubling") as app:
        response = await invoke(app, body, content_type, accept)
    assert response.status_code == 200
    assert response.content == answer
    assert response.headers["content-type"] == answer_type


UNSUPPORTED = (
    "Content type {} is not supported by this framework.\n\n"
    "            Please implement input_fn to to deserialize the request data or an output_fn to\n"
    "            serialize the response. For more information, see the SageMaker Python SDK"
    " README.\n"
    "Traceback (most recent call last):\n"
)


@pytest.mark.parametrize(
    ("content_type", "accept", "named"),
    [
        ("image/jpeg", None, "image/jpeg"),
        ("application/json; charset=utf-8", None, "application/json; charset=utf-8"),
        (None, None, "None"),
        (JSON, "image/png, text/html", "image/png, text/html"),
    ],
)
async def test_an_unsupported_type_is_a_failure_of_the_code(
    content_type: str | None, accept: str | None, named: str
) -> None:
    with served("doubling") as app:
        response = await invoke(app, "[1]", content_type, accept)
    assert response.status_code == 500
    assert "content-type" not in response.headers
    assert response.text.startswith(UNSUPPORTED.format(named))
    assert response.text.rstrip().endswith("SageMaker Python SDK README.")


async def test_an_array_of_pickled_objects_is_not_read() -> None:
    with served("doubling") as app:
        response = await invoke(app, npy(np.array([{}], object)), NPY)
    assert response.status_code == 500
    assert response.text.startswith("Object arrays cannot be loaded when allow_pickle=False")


async def test_the_default_answer_is_what_the_environment_says() -> None:
    with served("doubling", environment={"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": CSV}) as app:
        response = await invoke(app, "[1,2]", JSON)
    assert (response.text, response.headers["content-type"]) == ("2\n4\n", CSV)


async def test_an_image_embedding_server_of_three_arguments() -> None:
    """Guide 2: JPEG in, no `Accept`, a JSON list out; the model's file is named by a variable."""
    jpeg = io.BytesIO()
    Image.fromarray(photographs.astronaut()).save(jpeg, "JPEG")
    decoded = np.asarray(Image.open(jpeg), np.float32)
    environment = {"SAGEMAKER_PROGRAM": "embed.py", "modelname": "weights.json"}
    with served("embedding", environment=environment) as app:
        response = await invoke(app, jpeg.getvalue(), "image/jpeg")
    assert response.headers["content-type"] == JSON
    expected = decoded.mean(axis=(0, 1))[:2] / 255
    np.testing.assert_allclose(json.loads(response.content), expected, rtol=1e-5)


async def test_functions_may_take_the_context_as_well() -> None:
    headers = {"content-type": "text/plain; x=1", ATTRIBUTES: "a=b"}
    with served("with_context") as app:
        # No function of this package reads bytes, so that the body has to be of a text type.
        response = await call(
            app, "POST", "/invocations", content="[1]", headers=headers | {"content-type": CSV}
        )
        teapot = await invoke(app, "teapot", CSV)
    assert response.json() == ["[1]", CSV, CSV, "warm", "a=b"]
    assert response.headers["content-type"] == "application/x-told"
    assert (teapot.status_code, teapot.json()[-1]) == (418, None)


@pytest.mark.parametrize(
    ("body", "content_type", "accept", "answer_type"),
    [
        (b"\0\xff", "image/png", "text/csv, application/json", "text/csv, application/json"),
        ("größe".encode(), JSON, None, JSON),
    ],
)
async def test_transform_fn_alone_answers_with_the_whole_accept(
    body: bytes, content_type: str, accept: str | None, answer_type: str
) -> None:
    with served("echo") as app:
        response = await invoke(app, body, content_type, accept)
    assert response.content == body
    assert response.headers["content-type"] == answer_type


TRANSFORM = """
def model_fn(model_dir):
    return None

def transform_fn(model, data, content_type, accept):
    {}
"""


@pytest.mark.parametrize(
    ("code", "body", "content_type"),
    [
        ("return (b'a', 'x/y')", b"a", "x/y"),
        ("return (b'a', 'x/y', 3)", b"a", "x/y"),
        ("return bytearray(b'a')", b"a", JSON),
        ("return {'a': [1]}", b'{\n  "a": [\n    1\n  ]\n}', JSON),
        ("return None", b"null", JSON),
    ],
)
async def test_a_result_may_be_bytes_text_a_pair_or_what_json_holds(
    tmp_path: Path, code: str, body: bytes, content_type: str
) -> None:
    with served(write(tmp_path, inference_py=TRANSFORM.format(code))) as app:
        response = await invoke(app, b"", "text/plain")
    assert (response.content, response.headers["content-type"]) == (body, content_type)


OWN_ERROR = """
class BaseInferenceToolkitError(Exception):
    def __init__(self, status_code, message, phrase):
        super().__init__(status_code, message, phrase)
        self.status_code, self.message, self.phrase = status_code, message, phrase

class TooDark(BaseInferenceToolkitError):
    pass

def model_fn(model_dir):
    return None

def transform_fn(model, data, content_type, accept):
    if data == "dark":
        raise TooDark(422, "Too dark", "Unprocessable")
    raise RuntimeError
"""


async def test_the_toolkits_own_errors_bring_their_status(tmp_path: Path) -> None:
    with served(write(tmp_path, inference_py=OWN_ERROR)) as app:
        dark = await invoke(app, "dark", JSON)
        bare = await invoke(app, "light", JSON)
    assert dark.status_code == 422
    assert dark.text.startswith("Too dark\nTraceback (most recent call last):\n")
    assert bare.status_code == 500
    assert bare.text.startswith("Invalid Request\nTraceback (most recent call last):\n")


async def test_a_content_type_that_no_header_holds_is_the_codes_fault(tmp_path: Path) -> None:
    with served(write(tmp_path, inference_py=TRANSFORM.format("return b'', 'a\\nb'"))) as app:
        response = await invoke(app, b"")
    assert response.status_code == 500
    assert response.json() == {"error": "Not a Content-Type: got 'a\\nb'"}


async def test_a_wrong_number_of_parameters_is_told(tmp_path: Path) -> None:
    code = "def model_fn(d): return 1\ndef predict_fn(a): return a\n"
    with served(write(tmp_path, inference_py=code)) as app:
        response = await invoke(app, "[1]", JSON)
    assert response.status_code == 500
    assert response.text.startswith("predict_fn takes 1 arguments but 2 were given.\n")


async def test_the_model_is_loaded_once_and_globals_persist(tmp_path: Path) -> None:
    code = """
loads = calls = 0

def model_fn(model_dir):
    global loads
    loads += 1

def transform_fn(model, data, content_type, accept):
    global calls
    calls += 1
    return f"{loads} {calls}"
"""
    with served(write(tmp_path, inference_py=code)) as app:
        assert [(await invoke(app, b"")).text for _ in range(2)] == ["1 1", "1 2"]


async def test_an_archive_is_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(HERE / "doubling", ".")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with served(archive) as app:
        assert (await invoke(app, "[1]", JSON)).content == b"[2]"


async def test_packages_do_not_share_modules(tmp_path: Path) -> None:
    for name in ("one", "two"):
        package = write(
            tmp_path / name,
            inference_py="from naming import name\n" + TRANSFORM.format("return name"),
            naming_py=f"name = {name!r}\n",
        )
        with served(package) as app:
            assert (await invoke(app, b"")).text == name
    assert "naming" not in sys.modules
    assert not [path for path in sys.path if str(tmp_path) in path]


async def test_code_may_bring_its_libraries_along(tmp_path: Path) -> None:
    package = write(
        tmp_path,
        inference_py="import brought\n" + TRANSFORM.format("return brought.along"),
        requirements_txt="no-such-package-anywhere==0\n",
    )
    (package / "code" / "lib").mkdir()
    (package / "code" / "lib" / "brought.py").write_text("along = 'here'\n")
    with served(package) as app:
        assert (await invoke(app, b"")).text == "here"


async def test_the_environment_is_what_it_was_afterwards(tmp_path: Path) -> None:
    code = "import os\n" + TRANSFORM.format("return os.environ['ANSWER']")
    with served(write(tmp_path, inference_py=code), environment={"ANSWER": "42"}) as app:
        assert (await invoke(app, b"")).text == "42"
    assert "ANSWER" not in os.environ


@pytest.mark.parametrize(
    ("value", "output"),
    [
        ([1, 2], [2, 4]),
        ({"b64": base64.b64encode(npy(np.arange(2))).decode()}, None),
    ],
)
async def test_clipper_hands_over_json_or_base64(value: Any, output: Any) -> None:
    with served("doubling") as app:
        response = await call(app, "POST", "/predict", json={"input": value})
    answer = response.json()
    if output is not None:
        assert (answer["output"], answer["default"]) == (output, False)
    else:
        # application/octet-stream is nothing that the default functions read.
        assert answer["default"] is True
        assert "application/octet-stream is not supported" in answer["default_explanation"]


async def test_clipper_answers_bytes_as_b64_and_text_as_it_is(tmp_path: Path) -> None:
    with served(write(tmp_path, inference_py=TRANSFORM.format("return bytes(data)"))) as app:
        for data, output in (
            (b"\xff\0", {"b64": "/wA="}),
            (b"text", "text"),
            (b'{"a": [1.5]}', {"a": [1.5]}),
        ):
            body = {"input": base64.b64encode(data).decode()}
            assert (await call(app, "POST", "/predict", json=body)).json()["output"] == output


async def test_ping_is_empty_and_the_page_tells_of_whole_requests() -> None:
    with served("doubling") as app:
        response = await call(app, "GET", "/ping")
        page = (await call(app, "GET", "/")).json()
    assert (response.status_code, response.content) == (200, b"")
    assert (page["input"], page["max_batch_size"]) == ({"type": "request"}, 1)


def test_the_path_is_all_that_the_yaml_needs() -> None:
    settings = parse_settings(SageMakerSettings, {"model": {"path": "models/m.tar.gz"}})
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert (settings.input.type, settings.batching.max_batch_size) == ("request", 1)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import no_such_package", "got ModuleNotFoundError: No module named 'no_such_package'"),
        ("1 / 0", "fails to import: got ZeroDivisionError"),
        ("def (", "fails to import: got SyntaxError"),
        ("def predict_fn(d, m): pass", "lacks a function: expected model_fn.*got predict_fn"),
        ("def model_fn(d): pass", "lacks a function: expected predict_fn.*got model_fn"),
        ("def model_fn(d): raise OSError('gone')", "`model_fn` of .* failed: got OSError: gone"),
        ("def model_fn(): pass", "TypeError: model_fn takes 0 arguments but 1 were given"),
        (TRANSFORM.format("pass") + "def input_fn(d, c): pass", "got transform_fn and input_fn"),
        ("x = 1", "none of the functions of a SageMaker container: expected model_fn"),
        ("def input_handler(d, c): pass", "No SavedModel below"),
    ],
)
def test_code_that_cannot_serve_says_why(tmp_path: Path, code: str, sentence: str) -> None:
    check_refused(write(tmp_path, inference_py=code), sentence)
    assert "inference" not in sys.modules


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (
            "from sagemaker_inference import content_types",
            r"fails to import: .*No module named \'sagemaker_inference\'.*"
            r'`pip install "rayserve-app\[sagemaker\]"`, or `sagemaker-inference` in'
            r" `code/requirements\.txt`\.$",
        ),
        (
            "def model_fn(d):\n    import sagemaker_inference.encoder",
            r'`model_fn` of .* failed: .*`pip install "rayserve-app\[sagemaker\]"`, or',
        ),
        (
            "from tensorflow_serving.apis import predict_pb2",
            r"`tensorflow-serving-api` in `code/requirements\.txt`.*`pip install --no-deps",
        ),
        (
            "import no_such_package.part",
            r"'no_such_package'.*\. Its package belongs in `code/requirements\.txt`\.$",
        ),
    ],
)
def test_a_module_that_is_missing_is_told_with_what_to_do(
    tmp_path: Path, code: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("sagemaker_inference", "tensorflow_serving")
    monkeypatch.setattr(sys, "meta_path", [*map(Absent, names), *sys.meta_path])
    for module in [name for name in sys.modules if name.startswith(names)]:
        monkeypatch.delitem(sys.modules, module)
    check_refused(write(tmp_path, inference_py=code), sentence)


def test_a_module_that_is_missing_beside_libraries_belongs_there(tmp_path: Path) -> None:
    package = write(tmp_path, inference_py="import no_such_package")
    (package / "code" / "lib").mkdir()
    check_refused(package, "Its package belongs in `code/lib`")


def test_a_missing_program_is_told_with_those_that_are_there() -> None:
    check_refused("embedding", r"no `inference\.py`.*got embed\.py.*SAGEMAKER_PROGRAM")
    check_refused("doubling", r"no `a\.py`", environment={"SAGEMAKER_PROGRAM": "a.py"})


def test_what_is_no_package_says_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"1")
    expected = r"not a model package: expected `code/inference\.py`, or.*got weights\.bin.*root"
    check_refused(tmp_path, expected)
    check_refused(tmp_path / "weights.bin", "not a model package: expected a `model.tar.gz`")
    check_refused(tmp_path / "nothing", "No such file or directory")


async def test_requirements_that_are_there_already_let_a_package_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As pip leaves them; the code of the container's own tests imports all three."""
    monkeypatch.setitem(sys.modules, "uv", None)
    package = write(
        tmp_path,
        inference_py="import cv2, requests, yaml\ndef model_fn(d): return 2\n"
        "def predict_fn(data, model): return data * model\n",
        requirements_txt="requests\npyyaml\nopencv-python\nnumpy>=1.19\n",
    )
    with served(package, requirements="strict") as app:
        assert (await invoke(app, "[1]", JSON)).text == "[2]"


async def test_a_function_may_leave_out_the_content_type(tmp_path: Path) -> None:
    code = "def model_fn(d): pass\ndef transform_fn(m, data, ct, accept): return {}\n"
    with served(write(tmp_path, inference_py=code.format("(data, None)"))) as app:
        response = await invoke(app, b"x", "image/png")
        assert (response.content, "content-type" in response.headers) == (b"x", False)
    # What Multi Model Server makes of no body is JSON.
    with served(write(tmp_path, inference_py=code.format('(None, "text/x")'))) as app:
        response = await invoke(app, b"x", "image/png")
        assert (response.text, response.headers["content-type"]) == ("null", "text/x")


def test_requirements_that_do_not_install_are_told(tmp_path: Path) -> None:
    package = write(
        tmp_path, inference_py="def model_fn(d): pass", requirements_txt="numpy ==== 1\n"
    )
    check_refused(package, r"requirements\.txt")


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"input": {"type": "image"}}, "args.model.input.type"),
        ({"batching": {"max_batch_size": 4}}, "args.model.batching.max_batch_size"),
        ({"contract": "torch"}, "args.model.contract"),
        ({"framework": "torch"}, "args.model.framework"),
        ({"environment": {"A": 1}}, "args.model.environment.A"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        parse_settings(SageMakerSettings, {"model": {"path": "x", **settings}})
    assert error.value.path == path
