"""What others read of the models: lists, examples, generated clients, pages."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayserve_app.app import create_app
from rayserve_app.protocols.simple_tensorflow_serving.clients import (
    LANGUAGES,
    endpoint_url,
    write_client,
)
from rayserve_app.types import Metadata, TensorSpec
from tests.protocols import call
from tests.protocols.simple_tensorflow_serving.template_model import (
    PHOTO,
    create_echo,
    create_image_model,
    create_template_model,
    create_versioned,
    mean_of,
    post,
    upload,
)

# Models


async def test_the_list_of_models_is_json_that_calls_itself_html() -> None:
    app = create_app(create_template_model())
    response = await call(app, "GET", "/v1/models")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    (model,) = response.json()
    assert model == {
        "model_name": "m",
        "model_base_path": "",
        "model_version_list": ["1"],
        "model_signature": {
            "inputs": [
                {"name": "keys", "dtype": 3, "shape": [-1, 1]},
                {"name": "features", "dtype": 1, "shape": [-1, 9]},
            ],
            "outputs": [
                {"name": "keys", "dtype": 3, "shape": [-1, 1]},
                {"name": "prediction", "dtype": 9, "shape": [-1]},
                {"name": "softmax", "dtype": 1, "shape": [-1, 2]},
            ],
        },
        "platform": "TensorFlow",
    }
    for name in ("m", "default"):
        assert (await call(app, "GET", f"/v1/models/{name}")).json() == model


async def test_all_versions_are_listed() -> None:
    (model,) = (await call(create_versioned(), "GET", "/v1/models")).json()
    assert model["model_version_list"] == ["3", "1"]


async def test_no_name_of_a_model_is_read_as_html() -> None:
    metadata = Metadata("<b>&", (TensorSpec("<script>", "float32", (-1,)),))
    app = create_echo("tensors", metadata=metadata)
    response = await call(app, "GET", "/v1/models")
    assert "<" not in response.text
    assert response.json()[0]["platform"] == "<b>&"
    response = await call(app, "GET", "/v1/models/<script>")
    assert response.text == "Model not found: &lt;script&gt;"
    assert response.status_code == 200


async def test_nothing_is_generated_for_unknown_models_and_languages() -> None:
    app = create_app(create_template_model())
    for path in ("/v1/models/x/gen_json", "/v1/models/x/gen_client"):
        response = await call(app, "GET", path)
        assert response.status_code == 404
        assert response.json() == {"error": "No model 'x'. Models: m"}
    response = await call(app, "GET", "/v1/models/m/gen_client?language=cobol")
    assert response.status_code == 400
    assert "one of bash, python, golang, javascript, json" in response.json()["error"]


# Examples and clients


@pytest.mark.parametrize(
    ("dtype", "shape", "expected"),
    [
        ("float32", (-1, 3), [[1.0] * 3] * 2),
        ("int64", (-1, -1), [[1, 1]] * 2),
        ("bool", (-1,), [True, True]),
        ("string", (-1, 1), [[""], [""]]),
        ("", (), None),
        ("float64", (4, 1), [[1.0]] * 4),
    ],
)
async def test_an_example_fits_the_signature(dtype: str, shape: Any, expected: Any) -> None:
    spec = TensorSpec("x", dtype, shape)
    app = create_echo("tensors", metadata=Metadata("function", (spec,)))
    response = await call(app, "GET", "/v1/models/m/gen_json")
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"data": {"x": 1.0 if expected is None else expected}}


async def test_the_examples_of_the_template_model_are_upstreams() -> None:
    app = create_app(create_template_model())
    response = await call(app, "GET", "/v1/models/m/gen_json")
    assert response.json() == {"data": {"keys": [[1], [1]], "features": [[1.0] * 9, [1.0] * 9]}}
    assert (await call(app, "GET", "/v1/models/m/gen_client?language=json")).json() == (
        response.json()
    )


@pytest.mark.parametrize(
    "declared",
    [
        {"type": "string", "codec": "base64_urlsafe"},
        {"type": "image", "size": [32, 32]},
        {"type": "image", "codec": "packed_jpeg"},
        {"type": "bytes", "codec": "json_metadata"},
        {"type": "bytes"},
        {"type": "string"},
        {"type": "integers"},
        {"type": "doubles"},
        {"type": "tensor", "dtype": "uint8", "shape": [2, 2]},
        {"type": "tensor"},
        {"type": "request"},
    ],
    ids=str,
)
async def test_the_example_is_answered(declared: dict[str, Any]) -> None:
    app = create_echo("", input=declared)
    example = (await call(app, "GET", "/v1/models/m/gen_json")).json()
    response = await post(app, example)
    assert response.status_code == 200, response.text
    count = 1 if declared == {"type": "request"} else 2
    assert len(response.json()["output"]) == count


async def test_an_example_has_no_more_items_than_a_request_may() -> None:
    app = create_echo("string", limits={"max_items": 1})
    assert (await call(app, "GET", "/v1/models/m/gen_json")).json() == {"data": {"string": [""]}}


async def test_an_example_is_as_large_as_one_can_read() -> None:
    app = create_echo("tensor", input={"type": "tensor", "shape": [600, 1000]})
    example = (await call(app, "GET", "/v1/models/m/gen_json")).json()
    assert np.shape(example["data"]["tensor"]) == (1, 600, 1000)
    app = create_echo("tensor", input={"type": "tensor", "shape": [1001, 1000]})
    response = await call(app, "GET", "/v1/models/m/gen_json")
    assert response.status_code == 413
    assert "too large for an example" in response.json()["error"]


async def test_a_client_asks_for_the_signature_that_it_was_generated_for() -> None:
    path = "/v1/models/m/gen_client?signature_name=embed"
    response = await call(create_versioned(), "GET", path, headers={"host": "h:1"})
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert '"signature_name":"embed"' in response.text
    assert "http://h:1/m " in response.text


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"host": "server:8000"}, "http://server:8000/a%20b"),
        ({"host": "[::1]:8000"}, "http://[::1]:8000/a%20b"),
        (
            {
                "host": "10.0.0.1:8000",
                "x-forwarded-host": "models.example.org, inner",
                "x-forwarded-proto": "https, http",
                "x-forwarded-prefix": "/team/",
            },
            "https://models.example.org/team/a%20b",
        ),
    ],
)
def test_the_endpoint_is_what_the_client_reached(headers: dict[str, str], expected: str) -> None:
    assert endpoint_url(headers.get, "/a b") == expected


@pytest.mark.parametrize("language", LANGUAGES[:-1])
@pytest.mark.parametrize(
    "name", ["host", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-prefix"]
)
@pytest.mark.parametrize("value", ["a'$(id)", 'a"; x', "a`id`", "a\\", "a b", "a\u2028", "h/x"])
async def test_no_header_gets_into_source_code(language: str, name: str, value: str) -> None:
    response = await call(
        create_app(create_template_model()),
        "GET",
        f"/v1/models/m/gen_client?language={language}",
        headers=[(b"host", b"h"), (name.encode(), value.encode())],
    )
    assert response.status_code == 400
    assert "- at `" in response.json()["error"]


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"))


@settings(derandomize=True, deadline=None, max_examples=10)
@given(NAMES, st.sampled_from(["bash", "python", "javascript"]))
def test_no_name_of_an_input_gets_out_of_its_quotes(name: str, language: str) -> None:
    """The clients print the request that they would send."""
    fields = {"data": {"'\"`$(x)\\\n</script>" + name: ["${HOME} $HOME `x`", name]}}
    source = write_client(language, "http://h", fields, has_auth=False).decode()
    if language == "bash":
        source = re.sub(r"curl (.*\\\n)+.*<<", "cat <<", source)
        command = ["bash", "-c", source]
    elif language == "python":
        command = ["python3", "-c", source.replace("    main()", "    print(json.dumps(REQUEST))")]
    else:
        source = source.replace("\nmain();", "\nconsole.log(JSON.stringify(request));")
        command = ["node", "-e", source.partition("\n")[2]]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert json.loads(run.stdout) == fields, run.stderr


# Pages


async def test_the_image_form_shows_its_result() -> None:
    app = create_app(create_image_model())
    page = await call(app, "GET", "/image_inference")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert 'action="run_image_inference"' in page.text
    assert 'type="file" name="image"' in page.text
    data = {"model_name": "m", "model_version": "1", "signature_name": ""}
    response = await upload(app, {"image": PHOTO}, "/run_image_inference", data)
    assert response.status_code == 200
    assert f"{{&quot;prediction&quot;:[{mean_of(PHOTO)}]}}" in response.text


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("encoding", ["multipart", "urlencoded"])
async def test_the_json_form_shows_its_result(whole: bool, encoding: str) -> None:
    app = create_versioned()
    data: dict[str, Any] = {"string": ["a"]}
    request = {"data": data, "model_version": "1"} if whole else data
    fields = {"model_name": "default", "model_version": "3", "json_data": json.dumps(request)}
    options: dict[str, Any] = {"data": fields}
    if encoding == "multipart":
        options = {"files": {name: (None, value) for name, value in fields.items()}}
    response = await call(app, "POST", "/run_json_inference", **options)
    assert response.status_code == 200, response.text
    assert f"{{&quot;output&quot;:[&quot;{1 if whole else 3}&quot;]}}" in response.text


async def test_the_form_of_clients_shows_their_source() -> None:
    app = create_versioned()
    page = await call(app, "GET", "/generate_clients")
    assert all(f"<option>{language}</option>" in page.text for language in LANGUAGES)
    fields = {"model_name": "m", "signature_name": "embed", "language": "golang"}
    headers = {"host": "h:1"}
    response = await call(app, "POST", "/run_generate_clients", data=fields, headers=headers)
    assert response.status_code == 200
    assert "const endpoint = &quot;http://h:1/m&quot;" in response.text
    response = await call(app, "POST", "/run_generate_clients", data={"language": "json"})
    assert "{&quot;data&quot;:{&quot;string&quot;:[&quot;&quot;,&quot;&quot;]}}" in response.text


@pytest.mark.parametrize(
    ("path", "fields", "status", "error"),
    [
        ("/run_json_inference", {"json_data": "<script>"}, 400, "&lt;script&gt;"),
        ("/run_json_inference", {}, 400, "Invalid json data"),
        ("/run_json_inference", {"model_name": "<x>"}, 400, "Invalid model name: &lt;x&gt;"),
        ("/run_image_inference", {"image": ""}, 400, "Need to set image"),
        ("/run_generate_clients", {"language": "<x>"}, 400, "No such language"),
    ],
)
async def test_a_form_shows_its_error(
    path: str, fields: dict[str, str], status: int, error: str
) -> None:
    fields = fields or {"x": "y"}
    response = await call(create_echo("string"), "POST", path, data=fields)
    assert response.status_code == status
    assert "<h2>Error</h2>" in response.text
    assert error in response.text
    assert "<x>" not in response.text
    assert "<script" not in response.text
    assert "default-src 'none'" in response.headers["content-security-policy"]


async def test_a_result_is_not_read_as_html() -> None:
    app = create_echo("string")
    fields = {"json_data": json.dumps({"string": ["<img src=x onerror=alert(1)>"]})}
    response = await call(app, "POST", "/run_json_inference", data=fields)
    assert "<img" not in response.text
    assert "&lt;img" in response.text
