"""The SageMaker container beyond one model: further names, versions, and JSON Lines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayserve_app.app import App, create_app
from rayserve_app.inference.backend import Predictor
from rayserve_app.inference.model import Model
from rayserve_app.protocols.sagemaker.container import TARGET_MODEL
from rayserve_app.protocols.sagemaker.names import MAX_NAMES, ModelNames, targets
from rayserve_app.settings.model import FileSettings, ModelSettings
from tests.protocols import FunctionBackend, call, create_model

HASH = "3f786850e387550fdab836ed7e6dc881de23001b"


def add(rows: Sequence[Any]) -> list[float]:
    return [float(row.sum()) for row in rows]


def create_filed(path: str) -> Model:
    """Return a model whose YAML says where it lies."""
    values = {"input": {"type": "doubles"}, "path": path}
    model = Model(FileSettings.model_validate(values), FunctionBackend(add), name="m")
    model.load()
    model.warm_up()
    return model


def create_sums(**options: Any) -> App:
    return create_app(create_model(add, **({"input": {"type": "doubles"}} | options)))


async def load(app: App, name: Any, url: Any) -> Any:
    return await call(app, "POST", "/models", json={"model_name": name, "url": url})


async def test_a_model_is_loaded_from_the_start_under_its_own_name() -> None:
    app = create_app(create_filed("/opt/ml/models/m"))
    described = {"modelName": "m", "modelUrl": "/opt/ml/models/m"}
    assert (await call(app, "GET", "/models")).json() == {"models": [described]}
    assert (await call(app, "GET", "/models/m")).json() == described
    response = await call(app, "POST", "/models/m/invoke", json=[1, 2])
    assert (response.status_code, response.json()) == (200, 3)


@pytest.mark.parametrize("url", ["s3://bucket/models/m.tar.gz", "m"])
async def test_the_declared_url_or_the_name_gives_the_model_a_further_name(url: str) -> None:
    app = create_app(create_filed("s3://bucket/models/m.tar.gz"))
    response = await load(app, HASH, url)
    described = {"modelName": HASH, "modelUrl": "s3://bucket/models/m.tar.gz"}
    assert (response.status_code, response.json()) == (200, described)
    assert (await call(app, "GET", f"/models/{HASH}")).json() == described
    assert (await call(app, "GET", "/models")).json()["models"][1] == described
    response = await call(app, "POST", f"/models/{HASH}/invoke", json=[[1, 2], [3, 4]])
    assert response.json() == [3, 7]


async def test_a_name_that_is_taken_is_a_conflict() -> None:
    app = create_sums()
    assert (await load(app, HASH, "m")).status_code == 200
    for name in (HASH, "m"):
        response = await load(app, name, "m")
        assert response.status_code == 409
        assert response.json() == {"error": f"Model {name!r} is already loaded"}


async def test_nothing_that_a_client_names_is_fetched() -> None:
    """Not even looked at: nothing listens, and no such file is there."""
    app = create_app(create_filed("/opt/ml/models/m"))
    for url in (
        "http://169.254.169.254/latest",
        "s3://other/m",
        "/etc/passwd",
        "/opt/ml/models/../x",
    ):
        response = await load(app, HASH, url)
        assert response.status_code == 404
        assert response.json() == {
            "error": "No such model: nothing that a client names is fetched: expected "
            f"'/opt/ml/models/m' or 'm', got {url!r} - at `url`"
        }


async def test_a_given_name_is_taken_back() -> None:
    app = create_sums()
    await load(app, HASH, "m")
    response = await call(app, "DELETE", f"/models/{HASH}")
    assert (response.status_code, response.json()) == (200, {})
    for method, path in (("DELETE", ""), ("GET", ""), ("POST", "/invoke")):
        response = await call(app, method, f"/models/{HASH}{path}", content=b"[1]")
        assert response.status_code == 404
        assert response.json() == {"error": f"No such model is loaded: expected 'm', got '{HASH}'"}
    assert (await load(app, HASH, "m")).status_code == 200


async def test_the_models_own_name_stays() -> None:
    app = create_sums()
    response = await call(app, "DELETE", "/models/m")
    assert response.status_code == 409
    assert "is declared in the server's YAML and stays loaded" in response.json()["error"]
    assert (await call(app, "GET", "/models/m")).status_code == 200


async def test_there_are_so_many_names_and_pages_of_them() -> None:
    app = create_sums()
    for number in range(MAX_NAMES):
        await load(app, f"n{number}", "m")
    response = await load(app, "one-more", "m")
    assert response.status_code == 507
    assert response.json() == {"error": "Model 'm' has 1000 names; unload one of them"}
    names, token = [], "0"
    while token:
        page = (await call(app, "GET", f"/models?next_page_token={token}")).json()
        names += [each["modelName"] for each in page["models"]]
        token = page.get("nextPageToken", "")
    assert names == ["m", *(f"n{number}" for number in range(MAX_NAMES))]
    await call(app, "DELETE", "/models/n5")
    assert (await load(app, "one-more", "m")).status_code == 200


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b"", "not JSON"),
        (b"[]", "expected an object, got an array"),
        (b'{"url": "m"}', "at `model_name`"),
        (b'{"model_name": "a"}', "at `url`"),
        (b'{"model_name": 1, "url": "m"}', "at `model_name`"),
        (b'{"model_name": "a/b", "url": "m"}', "at `model_name`"),
        (b'{"model_name": "..", "url": "m"}', "at `model_name`"),
        (b'{"model_name": "%s", "url": "m"}' % (b"a" * 129), "at `model_name`"),
    ],
)
async def test_a_registration_that_is_none_is_told_why(body: bytes, place: str) -> None:
    response = await call(create_sums(), "POST", "/models", content=body)
    assert response.status_code == 400
    assert place in response.json()["error"]


@pytest.mark.parametrize("token", ["-1", "a", "1" * 10, "\u0663", ""])
async def test_a_page_token_that_is_none_is_refused(token: str) -> None:
    response = await call(create_sums(), "GET", "/models", params={"next_page_token": token})
    assert response.status_code == 400
    assert "at `next_page_token`" in response.json()["error"]


def test_what_a_url_may_keep_secret_is_not_told() -> None:
    path = "https://user:password@host/models/m.tar.gz?signature=secret"
    names = ModelNames(create_filed(path))
    assert names.url == "https://host/models/m.tar.gz"
    names.add("a", path)
    names.add("b", names.url)


def test_a_target_model_is_the_name_or_the_archive() -> None:
    assert targets("m", "s3://bucket/models/resnet.tar.gz") == {
        "m",
        "m.tar.gz",
        "resnet.tar.gz",
        "s3://bucket/models/resnet.tar.gz",
    }
    assert targets("m", None) == {"m", "m.tar.gz"}


# What the TensorFlow container reads from the custom attributes


class Adder(Predictor):
    def __init__(self, number: float) -> None:
        self.number = number

    def predict(self, items: Sequence[Any]) -> list[float]:
        return [float(item.sum()) + self.number for item in items]


class TwoVersions(FunctionBackend):
    def versions(self) -> Mapping[str, Mapping[str, Predictor]]:
        return {"2": {"serving_default": Adder(20)}, "1": {"serving_default": Adder(10)}}


@pytest.mark.parametrize(
    ("attributes", "status", "answer"),
    [
        (None, 200, 21),
        ("tfs-model-version=1", 200, 11),
        ("tfs-model-name=m,tfs-model-version=1,tfs-method=predict", 200, 11),
        ("trace=tfs, tfs-model-version=2", 200, 21),
        ("trace=1;tfs-model-version=1", 200, 11),
        ("tfs-model-version=", 200, 21),
        ("version=1,anything", 200, 21),
        ("tfs-model-version=3", 404, "Model 'm' has no such version: expected one of '2', '1'"),
        ("tfs-model-name=n", 404, "No such model: expected 'm', got 'n' - at `tfs-model-name`"),
        ("tfs-method=classify", 400, "No such method: expected 'predict', got 'classify'"),
    ],
)
async def test_custom_attributes_pick_a_version(
    attributes: str | None, status: int, answer: Any
) -> None:
    values = ModelSettings.model_validate({"input": {"type": "doubles"}})
    model = Model(values, TwoVersions(add), name="m")
    model.load()
    model.warm_up()
    headers = {"x-amzn-sagemaker-custom-attributes": attributes} if attributes else {}
    response = await call(
        create_app(model), "POST", "/invocations", content=b"[1]", headers=headers
    )
    assert response.status_code == status
    if status == 200:
        assert response.json() == answer
    else:
        assert answer in response.json()["error"]


# JSON Lines, as the SDK's JSONLinesSerializer and JSONLinesDeserializer speak them

LINES = {"content-type": "application/jsonlines"}


async def test_a_line_is_an_item_and_a_line_of_the_answer_its_result() -> None:
    app = create_sums()
    headers = LINES | {"accept": "application/jsonlines"}
    response = await call(app, "POST", "/invocations", content=b"[1,2]\n[3.5]\n", headers=headers)
    assert response.headers["content-type"] == "application/jsonlines"
    assert response.content == b"3.0\n3.5\n"
    response = await call(app, "POST", "/invocations", content=b"[1, 2]", headers=LINES)
    assert (response.headers["content-type"], response.json()) == ("application/json", [3])


async def test_a_single_result_is_one_line() -> None:
    headers = {"accept": "application/jsonlines, application/json"}
    response = await call(create_sums(), "POST", "/invocations", content=b"[1, 2]", headers=headers)
    assert response.content == b"3.0\n"


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b"", 400, "No items"),
        (b"\n \n", 400, "No items"),
        (b"[1]\n[2", 400, "at `lines[1]`"),
        (b"[1]\n[[2]]", 400, "at `lines[1].input`"),
        (b"[1]\n" * 6, 413, "at most 5"),
    ],
)
async def test_a_line_that_is_wrong_is_told_by_its_number(
    body: bytes, status: int, sentence: str
) -> None:
    app = create_sums(limits={"max_items": 5})
    response = await call(app, "POST", "/invocations", content=body, headers=LINES)
    assert response.status_code == status
    assert sentence in response.json()["error"]


def test_no_registration_gets_an_unexpected_answer() -> None:
    app = create_sums()
    values = st.none() | st.integers() | st.text(max_size=20) | st.sampled_from(["m", HASH])
    bodies = (
        st.binary(max_size=30)
        | st.dictionaries(st.sampled_from(["model_name", "url", "x"]), values).map(
            lambda fields: json.dumps(fields).encode()
        )
        | st.text(max_size=9).map(str.encode)
    )
    with asyncio.Runner() as runner:

        @settings(derandomize=True, deadline=None, max_examples=150, database=None)
        @given(bodies)
        def check(body: bytes) -> None:
            response = runner.run(call(app, "POST", "/models", content=body))
            assert response.status_code in (200, 400, 404, 409)
            assert ("error" in response.json()) == (response.status_code != 200)

        check()


async def test_a_container_answers_for_no_other_model() -> None:
    """Where the path has no name; beside the platform's own name the header may be anything."""
    app = create_sums()
    headers = {"content-type": "application/json", TARGET_MODEL: "n.tar.gz"}
    for path, status in (("/invocations", 400), ("/models/m/invoke", 200)):
        response = await call(app, "POST", path, content=b"[1, 2]", headers=headers)
        assert response.status_code == status, response.text
    headers[TARGET_MODEL] = "m.tar.gz"
    response = await call(app, "POST", "/invocations", content=b"[1, 2]", headers=headers)
    assert (response.status_code, response.json()) == (200, 3)
