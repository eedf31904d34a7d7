"""Who may call: basic authentication."""

from __future__ import annotations

import base64

import pytest

from rayserve_app.app import App
from rayserve_app.errors import ConfigurationError
from rayserve_app.settings.model import ModelSettings, parse_settings
from tests.protocols import call
from tests.protocols.simple_tensorflow_serving.template_model import create_echo, post

# Authentication


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> App:
    monkeypatch.setenv("M_PASSWORD", "sesam:é")
    auth = {"username": "ann", "password_variable": "M_PASSWORD"}
    return create_echo("string", protocol_settings={"simple_tensorflow_serving": auth})


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


OPEN = ["/health", "/image_inference", "/json_inference", "/generate_clients"]
GUARDED = ["/v1/models", "/v1/models/m", "/v1/models/m/gen_json", "/v1/models/m/gen_client"]


async def test_the_user_may_call(guarded: App) -> None:
    response = await post(guarded, {"data": {"string": ["a"]}}, authorization=basic("ann:sesam:é"))
    assert response.json() == {"output": ["a"]}
    for path in GUARDED:
        headers = {"authorization": basic("ann:sesam:é"), "host": "h"}
        assert (await call(guarded, "GET", path, headers=headers)).status_code == 200


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
async def test_credentials_are_utf_8_or_latin_1(guarded: App, encoding: str) -> None:
    token = base64.b64encode("ann:sesam:é".encode(encoding)).decode()
    response = await post(guarded, {"data": {"string": ["a"]}}, authorization=f"basic {token}")
    assert response.status_code == 200


async def test_a_password_that_latin_1_lacks_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M_PASSWORD", "日本")
    auth = {"username": "ann", "password_variable": "M_PASSWORD"}
    app = create_echo("string", protocol_settings={"simple_tensorflow_serving": auth})
    fields = {"data": {"string": ["a"]}}
    assert (await post(app, fields, authorization=basic("ann:日本"))).status_code == 200
    for other in ("ann:", "ann:??"):
        assert (await post(app, fields, authorization=basic(other))).status_code == 401


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Basic", "Basic !", "Bearer x", basic("ann"), basic("ann:"), basic("bob:sesam:é")],
)
async def test_others_may_not(guarded: App, authorization: str | None) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    responses = [await post(guarded, {"data": {"string": ["a"]}}, **headers)]
    for path in ("/run_image_inference", "/run_json_inference", "/run_generate_clients"):
        responses.append(await call(guarded, "POST", path, headers=headers))
    responses += [await call(guarded, "GET", path, headers=headers) for path in GUARDED]
    for response in responses:
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == 'Basic realm="Login Required"'
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        assert response.text == "Need basic auth to request the resources"
    for path in OPEN:
        assert (await call(guarded, "GET", path)).status_code == 200


@pytest.mark.parametrize(
    ("auth", "sentence"),
    [
        ({"username": "ann"}, "'username' and 'password_variable' go together"),
        ({"password_variable": "P"}, "'username' and 'password_variable' go together"),
        ({"username": "a:b", "password_variable": "P"}, "colon"),
    ],
)
def test_half_a_credential_is_refused(auth: dict[str, str], sentence: str) -> None:
    fields = {
        "input": {"type": "string"},
        "protocol_settings": {"simple_tensorflow_serving": auth},
    }
    with pytest.raises(ConfigurationError, match=sentence):
        parse_settings(ModelSettings, {"model": fields})


@pytest.mark.parametrize("password", [None, ""])
def test_a_model_without_its_password_is_not_served(
    password: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if password is None:
        monkeypatch.delenv("M_PASSWORD", raising=False)
    else:
        monkeypatch.setenv("M_PASSWORD", password)
    auth = {"username": "ann", "password_variable": "M_PASSWORD"}
    with pytest.raises(ConfigurationError, match=r"'M_PASSWORD'.*password_variable"):
        create_echo("string", protocol_settings={"simple_tensorflow_serving": auth})
