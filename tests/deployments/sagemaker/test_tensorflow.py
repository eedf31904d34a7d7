"""Packages of SageMaker's TensorFlow Serving container: with handlers, and without."""

from __future__ import annotations

import io
import pickle
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image
from skimage import data as photographs

from rayserve_app.app import App
from tests.deployments.packages import check_refused, combine, served, write
from tests.protocols import call

JSON = "application/json"
ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"


async def invoke(app: App, body: bytes | str, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await call(app, "POST", "/invocations", content=body, headers=named)


async def test_a_handler_is_told_all_of_its_request(tmp_path: Path, half_plus_three: Path) -> None:
    attributes = "a=b,tfs-model-name=half,tfs-model-version=7,tfs-method=classify"
    with served(combine(tmp_path / "p", "handler", half_plus_three)) as app:
        plain = (await invoke(app, b"abcdef")).json()
        response = await invoke(
            app, b"abcdef", content_type="image/x", accept="*/*", **{ATTRIBUTES: attributes}
        )
    port = plain["rest_uri"].split(":")[2].split("/")[0]
    uri = f"http://localhost:{port}/v1/models"
    told = {"first": "abc", "rest": "def", "end": "", "content_length": 6}
    told["grpc_port"] = plain["grpc_port"]
    assert isinstance(plain["grpc_port"], str)
    assert plain == told | {
        "model_name": None,
        "model_version": None,
        "method": None,
        "rest_uri": f"{uri}/half_plus_three:predict",
        "custom_attributes": None,
        "request_content_type": JSON,
        "accept_header": JSON,
        "calls": 1,
    }
    assert response.headers["content-type"] == "*/*"
    assert response.json() == told | {
        "model_name": "half",
        "model_version": "7",
        "method": "classify",
        "rest_uri": f"{uri}/half/versions/7:classify",
        "custom_attributes": attributes,
        "request_content_type": "image/x",
        "accept_header": "*/*",
        "calls": 2,
    }


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        # What the container's regular expression finds: anywhere, each up to a comma.
        ("trace=1;tfs-model-name=half,tfs-model-version=7", ["half", "7"]),
        ("a tfs-model-name=half", ["half", None]),
        ("x-tfs-model-version=7 , b", [None, "7"]),
        ("tfs-model-name=,tfs-model-version= ", [None, None]),
        ("TFS-model-name=half", [None, None]),
    ],
)
async def test_attributes_may_stand_behind_another_separator(
    tmp_path: Path, half_plus_three: Path, attributes: str, named: list[str | None]
) -> None:
    with served(combine(tmp_path / "p", "handler", half_plus_three)) as app:
        told = (await invoke(app, b"abcdef", **{ATTRIBUTES: attributes})).json()
    assert [told["model_name"], told["model_version"]] == named


@pytest.mark.parametrize(
    ("answer", "content_type", "body"),
    [
        # What falcon 3.1.3 answers to these in the container's python_service.py.
        ('(None, "text/x")', "text/x", b""),
        ('("body", None)', JSON, b"body"),
        ('(b"body", None)', JSON, b"body"),
        ("(None, None)", JSON, b""),
    ],
)
async def test_a_handler_may_leave_out_body_or_type(
    tmp_path: Path, half_plus_three: Path, answer: str, content_type: str, body: bytes
) -> None:
    package = combine(tmp_path / "p", "handler", half_plus_three)
    write(package, inference_py=f"def handler(data, context):\n    return {answer}\n")
    with served(package) as app:
        response = await invoke(app, b"x")
    assert (response.status_code, response.content) == (200, body)
    assert response.headers["content-type"] == content_type


async def test_what_a_handler_raises_is_an_error_in_json(
    tmp_path: Path, half_plus_three: Path
) -> None:
    with served(combine(tmp_path / "p", "handler", half_plus_three)) as app:
        response = await invoke(app, b"abcfail", content_type="image/jpeg")
    assert response.status_code == 500
    assert response.headers["content-type"] == JSON
    assert response.text == '{"error": "Unsupported content type: image/jpeg"}'


PREDICTIONS = b'{\n    "predictions": [3.5, 4.0, 5.5\n    ]\n}'


async def test_two_handlers_meet_over_the_rest_api(tmp_path: Path, half_plus_three: Path) -> None:
    with served(combine(tmp_path / "p", "two_handlers", half_plus_three)) as app:
        from_json = await invoke(app, '{"instances": [1.0, 2.0, 5.0]}', content_type=JSON)
        from_csv = await invoke(app, "1.0,2.0,5.0", content_type="text/csv", accept="x/y")
        by_name = await invoke(
            app,
            '{"instances": [1.0]}',
            **{ATTRIBUTES: "tfs-model-name=half_plus_three,tfs-model-version=123"},
        )
        unknown = await invoke(app, '{"instances": [1.0]}', **{ATTRIBUTES: "tfs-model-name=other"})
    assert from_json.content == from_csv.content == PREDICTIONS
    assert (from_json.headers["content-type"], from_csv.headers["content-type"]) == (JSON, "x/y")
    assert by_name.json() == {"predictions": [3.5]}
    assert unknown.status_code == 500
    assert "Servable not found for request: Latest(other)" in unknown.json()["error"]


async def test_packed_images_through_grpc(tmp_path: Path, yolov3: Path, serving_api: Path) -> None:
    """Guide 4, its code and its client: one flat array, output by output."""
    package = combine(tmp_path / "p", "packed_jpeg", yolov3)
    shutil.copytree(serving_api, package / "code" / "lib")
    stream, means = b"", []
    for photograph in (photographs.astronaut(), photographs.astronaut()[::-1] // 2):
        file = io.BytesIO()
        Image.fromarray(photograph).save(file, "JPEG")
        means.append((np.asarray(Image.open(file), np.float32) / 255).mean(axis=(0, 1)))
        stream += struct.pack(">I", len(file.getvalue())) + file.getvalue()
    types = {"content_type": "application/x-packed-jpeg", "accept": "application/x-npy"}
    with served(package) as app:
        response = await invoke(app, stream, **types)
        again = await invoke(app, stream + struct.pack(">I", 0), **types)
        empty = await invoke(app, b"\0\0\0\0", **types)
        wrong = await invoke(app, stream, content_type="image/jpeg")
        any_type = await invoke(app, stream, content_type=types["content_type"], accept="*/*")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-npy"
    flat = pickle.loads(response.content)
    expected = np.concatenate([np.tile(means, count).ravel() for count in (1, 2, 3)])
    np.testing.assert_allclose(flat, expected, rtol=1e-4)
    assert again.content == response.content
    assert empty.json() == {"error": "Empty input data!"}
    assert wrong.json() == {"error": "Unsupported content type: image/jpeg"}
    assert any_type.json() == {"error": "Unsupported accept type: */*"}


# aws/sagemaker-tensorflow-serving-container, test/integration/local/test_container.py.
@pytest.mark.parametrize(
    ("body", "content_type", "predictions"),
    [
        ('{"instances": [1.0, 2.0, 5.0]}', JSON, [3.5, 4.0, 5.5]),
        ('{"instances": [[1.0, 2.0, 5.0]]}', JSON, [[3.5, 4.0, 5.5]]),
        ("[1.0, 2.0, 5.0]", JSON, [[3.5, 4.0, 5.5]]),
        ("[[1.0, 2.0, 5.0]]", JSON, [[3.5, 4.0, 5.5]]),
        ("[1.0, 2.0, 5.0]\n[1.0, 2.0, 5.0]", JSON, [[3.5, 4.0, 5.5]] * 2),
        ("[1.0, 2.0, 5.0]\n[1.0, 2.0, 5.0]", "application/jsonlines", [[3.5, 4.0, 5.5]] * 2),
        ('{"x": [1.0]}\n\n{"x": [2.0]}\n', "application/jsons", [[3.5], [4.0]]),
        ("1.0", "text/csv", [3.5]),
        ("1.0,2.0,5.0", "text/csv", [[3.5, 4.0, 5.5]]),
        ("1.0\n2.0\n5.0", "text/csv", [3.5, 4.0, 5.5]),
        ("1.0,2.0,5.0\r\n1.0,2.0,5.0\r\n", "text/csv", [[3.5, 4.0, 5.5]] * 2),
    ],
)
async def test_a_model_without_code_takes_json_lines_and_csv(
    half_plus_three: Path, body: str, content_type: str, predictions: Any
) -> None:
    with served(half_plus_three.parent) as app:
        response = await invoke(app, body, content_type=content_type)
    assert response.status_code == 200, response.text
    assert response.json() == {"predictions": predictions}
    assert response.headers["content-type"] == JSON


async def test_strings_in_csv_are_quoted(half_plus_three: Path) -> None:
    with served(half_plus_three.parent) as app:
        response = await invoke(app, 'a,b"c,d', content_type="text/csv")
    assert response.status_code == 400
    sentence = response.json()["error"]
    assert 'JSON Value: "a" Type: String is not of expected type: float' in sentence


async def test_an_answer_of_json_lines_is_one_line(half_plus_three: Path) -> None:
    with served(half_plus_three.parent) as app:
        response = await invoke(
            app,
            '{"instances": [1.0, 2.0, 5.0]}',
            content_type=JSON,
            accept="application/jsonlines, text/csv",
        )
    assert response.text == '{    "predictions": [3.5, 4.0, 5.5    ]}'
    assert response.headers["content-type"] == "application/jsonlines"


@pytest.mark.parametrize(
    ("content_type", "named"),
    [
        ("image/jpeg", "image/jpeg"),
        ("application/json; charset=utf-8", "application/json; charset=utf-8"),
        (None, "Unknown"),
    ],
)
async def test_another_content_type_is_415(
    half_plus_three: Path, content_type: str | None, named: str
) -> None:
    headers = {} if content_type is None else {"content_type": content_type}
    with served(half_plus_three.parent) as app:
        response = await invoke(app, "[1.0]", **headers)
    assert response.status_code == 415
    assert response.json() == {"error": f"Unsupported Media Type: {named}"}


async def test_an_instance_of_the_wrong_type_is_400(half_plus_three: Path) -> None:
    with served(half_plus_three.parent) as app:
        response = await invoke(app, '{"instances": ["]["]}', content_type=JSON)
        clipper = await call(app, "POST", "/predict", json={"input": {"instances": ["]["]}})
    assert response.status_code == 400
    assert response.json() == {
        "error": "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT:"
        ' JSON Value: "][" Type: String is not of expected type: float'
    }
    assert clipper.json()["default"] is True


async def test_versions_are_named_by_custom_attributes(
    tmp_path: Path, half_plus_three: Path
) -> None:
    models = tmp_path / "export" / "Servo"
    for version in ("2", "10"):
        shutil.copytree(half_plus_three / "00000123", models / version)
    body = '{"instances": [1.0]}'
    with served(tmp_path) as app:
        for attributes, status in (
            ("", 200),
            ("tfs-model-name=Servo,tfs-model-version=2", 200),
            ("tfs-model-name=Servo,tfs-model-version=3", 404),
            ("tfs-model-name=export", 404),
        ):
            response = await invoke(app, body, content_type=JSON, **{ATTRIBUTES: attributes})
            assert response.status_code == status, attributes
    assert response.json() == {"error": "Servable not found for request: Latest(export)"}


async def test_a_package_may_hold_several_models(
    tmp_path: Path, half_plus_three: Path, named: Path
) -> None:
    """They are called as their directories are; the first one answers where none is named."""
    for model in (half_plus_three, named):
        shutil.copytree(model, tmp_path / "models" / model.name)
    with served(tmp_path) as app:
        first = await invoke(app, '{"instances": [1.0]}', content_type=JSON)
        second = await invoke(
            app,
            '{"signature_name": "length", "instances": ["abc"]}',
            content_type=JSON,
            **{ATTRIBUTES: "tfs-model-name=named,tfs-model-version=2"},
        )
    assert (first.json(), second.json()) == ({"predictions": [3.5]}, {"predictions": [3]})


async def test_the_endpoints_go_with_the_model(tmp_path: Path, half_plus_three: Path) -> None:
    with served(combine(tmp_path / "p", "handler", half_plus_three)) as app:
        uri = (await invoke(app, b"abc")).json()["rest_uri"].removesuffix(":predict")
        assert requests.get(uri, timeout=10).status_code == 200
    with pytest.raises(requests.ConnectionError):
        requests.get(uri, timeout=10)


def test_half_a_pair_of_handlers_is_none(tmp_path: Path, half_plus_three: Path) -> None:
    package = write(tmp_path, inference_py="def input_handler(data, context): pass")
    shutil.copytree(half_plus_three, package / "half_plus_three")
    check_refused(package, "has no handler: expected handler.*got input_handler")


def test_a_model_that_is_none_is_told(tmp_path: Path) -> None:
    version = tmp_path / "model" / "1"
    version.mkdir(parents=True)
    (version / "saved_model.pb").write_bytes(b"nothing of the kind")
    check_refused(tmp_path, r"saved_model\.pb` is not a SavedModel")
