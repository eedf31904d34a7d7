"""Another protocol is a package, with all that is its own, and an entry in the registry."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from openapi_spec_validator import validate

from rayserve_app.errors import ConfigurationError
from rayserve_app.gateway.app import Gateway
from rayserve_app.gateway.replicas import Address, Directory, ServedModel
from rayserve_app.gateway.settings import GatewaySettings
from rayserve_app.settings.model import ModelSettings, parse_settings
from rayserve_app.settings.protocols import PROTOCOLS
from tests.protocols import create_model
from tests.protocols.servers import serving as serving_model
from tests.servers import serving

PACKAGE = {
    "settings.py": """
from rayserve_app.settings.section import Section

class LinesSettings(Section):
    greeting: str = "Hello"
""",
    "openapi.yaml": """
paths:
  /lines/{model}:
    post:
      operationId: lines_predict
      parameters: [{in: path, name: model, required: true, schema: {type: string}}]
      requestBody: {content: {text/plain: {schema: {type: string}}}}
      responses: {"200": {description: A line for each line}}
  /lines:
    get:
      operationId: lines_greet
      responses: {"200": {description: A greeting of each model}}
""",
    "service.py": """
from another_lines.settings import LinesSettings
from rayserve_app.codecs import json
from rayserve_app.protocols.protocol import Means, Protocol, Route, inference, rows
from rayserve_app.web.messages import Response, status_of

class Lines(Protocol):
    name = "lines"
    settings_type = LinesSettings
    ROUTES = (
        Route("POST", "/lines/{model}", "predict"),
        Route("GET", "/lines", "greet", Means.ALL),
    )

    @classmethod
    def render_error(cls, error):
        return Response(f"! {error}".encode(), status=status_of(error))

    @inference
    async def predict(self, request):
        lines = bytes(await request.body()).decode().splitlines()
        results = await self.model.predict(lines)
        return Response("\\n".join(str(row.value) for row in rows(results)).encode())

    async def greet(self, _):
        greeting = self.model.settings.of_protocol(self.name, LinesSettings).greeting
        return Response(json.encode([f"{greeting} from {self.model.name}"]),
                        media_type="application/json")
""",
    "__init__.py": "from another_lines.service import Lines\n",
}


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "another_lines"
    package.mkdir()
    for name, text in PACKAGE.items():
        (package / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(PROTOCOLS, "lines", "another_lines:Lines")


@pytest.mark.usefixtures("lines")
def test_another_protocol_is_served_by_model_and_gateway() -> None:
    settings = {"input": {"type": "string"}, "protocol_settings": {"lines": {"greeting": "Ahoi"}}}
    assert parse_settings(ModelSettings, {"model": settings}).protocols[-1] == "lines"
    model = create_model(lambda items: [item.upper() for item in items], **settings)
    directory = Directory()
    with serving_model(model) as url, serving(Gateway(GatewaySettings(), directory)) as port:
        assert httpx.post(f"{url}/lines/m", content="a\nb").text == "A\nB"
        replica = Address("127.0.0.1", httpx.URL(url).port or 0)
        directory.update([ServedModel("m", "/m", (replica,))])
        gateway = f"http://127.0.0.1:{port}"
        answer = httpx.post(f"{gateway}/lines/m", content="a\nb")
        assert (answer.text, answer.headers["x-rayserve-model"]) == ("A\nB", "m")
        assert httpx.get(f"{gateway}/lines").json() == ["Ahoi from m"]
        refused = httpx.post(f"{gateway}/lines/n", content="a")
        assert (refused.status_code, refused.text[:16]) == (404, "! No model 'n'. ")
        for server in (url, gateway):
            document = httpx.get(f"{server}/openapi.json").json()
            validate(document)
            assert document["paths"]["/lines"]["get"]["operationId"] == "lines_greet"
            parameter = document["paths"]["/lines/{model}"]["post"]["parameters"][0]
            assert parameter["schema"]["enum"] == ["m"]


@pytest.mark.usefixtures("lines")
def test_another_protocols_settings_are_checked() -> None:
    mistaken = {"input": {"type": "string"}, "protocol_settings": {"lines": {"greting": "Hi"}}}
    with pytest.raises(ConfigurationError, match=r"'greting' .*lines.greting`. Known: greeting"):
        parse_settings(ModelSettings, {"model": mistaken})
