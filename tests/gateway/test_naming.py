"""Which model a request means, by all the ways in which clients name one: the one that is named
answers, or nobody."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from rayserve_app.gateway.app import Gateway
from rayserve_app.gateway.replicas import Address, Directory, ServedModel
from rayserve_app.gateway.settings import GatewaySettings
from rayserve_app.protocols.sagemaker.names import targets
from tests.gateway.test_gateway import replica
from tests.servers import serving

PREFIX = "X-Amzn-SageMaker-"

PATHS = {"digits": "s3://bucket/archives/mnist.tar.gz", "colors": None, "default-one": None}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """A gateway of three models, one of which is meant where none is named."""
    directory = Directory()
    with (
        serving(replica) as replica_port,
        serving(Gateway(GatewaySettings(default_model="default-one"), directory)) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client,
    ):
        replicas = (Address("127.0.0.1", replica_port),)
        directory.update(
            ServedModel(name, f"/{name}", replicas, targets=frozenset(targets(name, path)))
            for name, path in PATHS.items()
        )
        yield client


def answering(answer: httpx.Response) -> str:
    """Return the name of the model that was asked, and says so in a header."""
    assert answer.status_code == 200, answer.text
    name = str(answer.json()["raw_path"]).split("/")[1]
    assert answer.headers.get_list("x-rayserve-model") == [name]
    return name


IMAGE = {"image": ("a.png", b"\x89PNG\r\n\x1a\n", "image/png")}

WAYS: dict[str, dict[str, Any]] = {
    "header": {"headers": {f"{PREFIX}Target-Model": "NAME"}, "content": b"1,2"},
    "archive": {"headers": {f"{PREFIX}Target-Model": "/NAME.tar.gz"}, "content": b"1,2"},
    "component": {"headers": {f"{PREFIX}Inference-Component": "NAME"}, "content": b"1,2"},
    "attribute": {
        "headers": {f"{PREFIX}Custom-Attributes": "a=b,tfs-model-name=NAME,tfs-method=predict"},
        "content": b"1,2",
    },
    "query": {"params": {"model_name": "NAME"}, "content": b"1,2"},
    "upload": {"data": {"model_name": "NAME"}, "files": IMAGE},
    "form": {"data": {"model_name": "NAME", "data": "[1]"}},
}


def request(way: str, name: str) -> dict[str, Any]:
    def put(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: put(each) for key, each in value.items()}
        return value.replace("NAME", name) if isinstance(value, str) else value

    return {key: put(value) for key, value in WAYS[way].items()}


@pytest.mark.parametrize("path", ["/invocations", "/predict", "/", "/run_image_inference"])
@pytest.mark.parametrize("way", WAYS)
def test_the_named_model_answers_or_nobody(client: httpx.Client, way: str, path: str) -> None:
    for name in ("digits", "colors"):
        assert answering(client.post(path, **request(way, name))) == name
    unknown = client.post(path, **request(way, "digts"))
    assert unknown.status_code in (400, 404), unknown.text
    assert "Did you mean 'digits'?" in unknown.text


@pytest.mark.parametrize("path", ["/invocations", "/predict", "/"])
def test_what_names_no_model_is_the_default_ones(client: httpx.Client, path: str) -> None:
    assert answering(client.post(path, files=IMAGE)) == "default-one"
    assert answering(client.post(path, data={"model_name": ""})) == "default-one"
    assert answering(client.post(path, content=b"not a form", headers=FORM)) == "default-one"


FORM = {"content-type": "multipart/form-data; boundary=x"}


def test_json_names_its_model_where_a_protocol_says_so(client: httpx.Client) -> None:
    assert answering(client.post("/", json={"model_name": "digits", "data": [1]})) == "digits"
    headers = {"content-type": "Application/JSON"}
    body = json.dumps({"model_name": "colors"}).encode()
    assert answering(client.post("/", content=body, headers=headers)) == "colors"


def test_json_names_its_model_beside_what_is_not_a_number(client: httpx.Client) -> None:
    """simple_tensorflow_serving reads NaN and infinities as Python's `json` does."""
    body = json.dumps({"model_name": "digits", "data": [float("nan"), float("-inf")]})
    answer = client.post("/", content=body, headers={"content-type": "application/json"})
    assert answering(answer) == "digits"


def test_two_lines_of_a_header_are_not_one_of_them(client: httpx.Client) -> None:
    for names in (("digits", "colors"), ("colors", "digits")):
        lines = [(f"{PREFIX}Target-Model", name) for name in names]
        refused = client.post("/invocations", headers=lines, content=b"1,2")
        assert refused.status_code == 404
        assert "No model '" + ", ".join(names) in refused.json()["error"]
        lines = [(f"{PREFIX}Custom-Attributes", f"tfs-model-name={name}") for name in names]
        refused = client.post("/invocations", headers=lines, content=b"1,2")
        assert refused.status_code == 400
        assert "names two models" in refused.text


def test_the_archive_of_a_multi_model_endpoint_may_be_the_files_own(client: httpx.Client) -> None:
    for name in ("mnist.tar.gz", "s3://bucket/archives/mnist.tar.gz"):
        headers = {f"{PREFIX}Target-Model": name}
        assert answering(client.post("/invocations", headers=headers)) == "digits"


def test_a_large_form_is_searched_to_its_end(client: httpx.Client) -> None:
    files = {"image": ("a.png", b"\x89PNG" * 100_000, "image/png"), "model_name": (None, "colors")}
    answer = client.post("/", files=files)
    assert answering(answer) == "colors"
    assert answer.json()["size"] > 400_000


@pytest.mark.parametrize(
    ("path", "other"),
    [
        ("/models/digits/invoke", {"headers": {f"{PREFIX}Target-Model": "colors.tar.gz"}}),
        ("/endpoints/digits/invocations", {"headers": {f"{PREFIX}Target-Model": "colors"}}),
        ("/predictions/digits", {"headers": {f"{PREFIX}Target-Model": "colors"}}),
        (
            "/invocations?model_name=digits",
            {"headers": {f"{PREFIX}Target-Model": "colors"}, "content": b"1"},
        ),
        ("/invocations?model_name=digits", {"data": {"model_name": "colors"}}),
        ("/invocations?model_name=digits&model_name=colors", {"content": b"1"}),
        ("/v2/models/digits/infer?model_name=colors", {"content": b"{}"}),
        (
            "/v1/models/digits:predict",
            {"headers": {f"{PREFIX}Custom-Attributes": "tfs-model-name=colors"}, "content": b"{}"},
        ),
    ],
)
def test_two_names_are_refused(client: httpx.Client, path: str, other: dict[str, Any]) -> None:
    refused = client.post(path, **other)
    assert refused.status_code == 400, refused.text
    assert "names two models" in refused.text
    for name in ("digits", "colors"):
        assert name in refused.text


def test_a_field_beside_a_paths_name_is_an_input(client: httpx.Client) -> None:
    data = {"model_name": "colors"}
    assert answering(client.post("/predictions/digits", data=data)) == "digits"
    query = "?model_name=digits&model_name=digits"
    assert answering(client.post(f"/v2/models/digits/infer{query}", content=b"{}")) == "digits"


def test_the_platforms_own_name_stands_beside_what_its_client_says(client: httpx.Client) -> None:
    """A multi-model endpoint's platform names a model in the path, and passes the header on."""
    for archive in ("digits.tar.gz", "customer-7/latest.tar.gz"):
        headers = {f"{PREFIX}Target-Model": archive}
        assert answering(client.get("/models/digits", headers=headers)) == "digits"


@pytest.mark.parametrize(
    ("method", "path", "status", "sentence"),
    [
        ("POST", "/digts/predict", 404, "No model 'digts'. Did you mean 'digits'?"),
        ("POST", "/models/Digits/invoke", 404, "No model 'Digits'. Did you mean 'digits'?"),
        ("GET", "/digts", 404, "No model at '/digts'. Did you mean '/digits'?"),
        ("GET", "/digts/v2/health/ready", 404, "No model at '/digts'. Did you mean '/digits'?"),
        ("GET", "/v2/helth/ready", 404, "Did you mean '/v2/health/ready'"),
        ("POST", "/v2/models/digits/infr", 404, "Did you mean '/v2/models/digits/infer'"),
        ("POST", "/v1/models/dgits:predict", 404, "Did you mean 'digits'?"),
        ("POST", "/v2/models/dgits/infer", 404, "Did you mean 'digits'?"),
        ("POST", "/endpoints/dgits/invocations", 400, "Did you mean 'digits'?"),
        ("POST", "/predictions/dgits", 404, "Did you mean 'digits'?"),
        ("POST", "/models/dgits/versions/1/predict", 404, "Did you mean 'digits'?"),
        ("GET", "/nothing/like/this", 404, "No such path '/nothing/like/this'."),
    ],
)
def test_a_mistyped_name_is_told_in_one_sentence(
    client: httpx.Client, method: str, path: str, status: int, sentence: str
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    message = answer.text if answer.text[0] != "{" else str(next(iter(answer.json().values())))
    assert sentence in (message if sentence in message else answer.text)
    assert len(answer.text) < 300
    assert "x-rayserve-model" not in answer.headers


def test_a_models_name_in_any_script_is_a_header(client: httpx.Client) -> None:
    with serving(replica) as port:
        directory = Directory()
        directory.update([ServedModel("größe 1", "/g", (Address("127.0.0.1", port),))])
        with serving(Gateway(GatewaySettings(), directory)) as gateway:
            url = f"http://127.0.0.1:{gateway}/invocations"
            answer = httpx.post(url, content=base64.b64encode(b"x"))
    assert answer.headers["x-rayserve-model"] == "gr%C3%B6%C3%9Fe 1"
