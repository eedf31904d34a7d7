"""The routes of simple_tensorflow_serving, on one model."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from html import escape
from typing import Any, ClassVar, Final

from rayserve_app.codecs import form, json
from rayserve_app.codecs.form import Field
from rayserve_app.errors import (
    BodyTimeout,
    InvalidRequest,
    PredictError,
    RequestTooLarge,
    ServingError,
    release,
)
from rayserve_app.inference.model import Model
from rayserve_app.inference.servables import Servable
from rayserve_app.payloads.items import Encoded
from rayserve_app.protocols.protocol import Declined, Means, Protocol, Route, inference, rows
from rayserve_app.protocols.simple_tensorflow_serving import messages, pages
from rayserve_app.protocols.simple_tensorflow_serving.basic_auth import BasicAuth, Unauthorized
from rayserve_app.protocols.simple_tensorflow_serving.clients import (
    LANGUAGES,
    endpoint_url,
    write_client,
)
from rayserve_app.protocols.simple_tensorflow_serving.messages import Query
from rayserve_app.protocols.simple_tensorflow_serving.pages import Page
from rayserve_app.protocols.simple_tensorflow_serving.settings import (
    SimpleTensorFlowServingSettings,
)
from rayserve_app.protocols.simple_tensorflow_serving.signature import (
    describe_signature,
    example_bytes,
    example_data,
)
from rayserve_app.protocols.writing import written
from rayserve_app.types import Buffer
from rayserve_app.web.messages import Request, Response, retry_headers, status_of

_JSON: Final = "application/json"
_HTML: Final = "text/html; charset=utf-8"
_TEXT: Final = "text/plain; charset=utf-8"

_BELOW_PREFIX: Final = re.compile(r"/(v1/models/[^/]+/gen_client|run_generate_clients)$")

_CLIENTS: Final = pages.clients_page(LANGUAGES)


class SimpleTensorFlowServing(Protocol):
    """The API for one model, which is its own server's default one."""

    name: ClassVar[str] = "simple_tensorflow_serving"

    settings_type = SimpleTensorFlowServingSettings

    ROUTES: ClassVar = (
        Route("POST", "/", "infer", Means.IN_BODY),
        Route("GET", "/health", "health", Means.ALL),
        Route("GET", "/v1/models", "list_models", Means.ALL),
        Route("GET", "/v1/models/{model}", "describe_model"),
        Route("GET", "/v1/models/{model}/gen_json", "generate_json"),
        Route("GET", "/v1/models/{model}/gen_client", "generate_client"),
        Route("GET", "/image_inference", "image_form"),
        Route("POST", "/run_image_inference", "run_image_inference"),
        Route("GET", "/json_inference", "json_form"),
        Route("POST", "/run_json_inference", "run_json_inference"),
        Route("GET", "/generate_clients", "clients_form"),
        Route("POST", "/run_generate_clients", "run_generate_clients"),
    )

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._settings = model.settings.of_protocol(self.name, SimpleTensorFlowServingSettings)
        self._auth = BasicAuth(
            self._settings.username,
            self._settings.password_variable,
            path=f"args.model.protocol_settings.{self.name}",
        )

    @classmethod
    def unknown_model(cls, name: str, known: Sequence[str]) -> ServingError:
        return messages.unknown_model(name, known)

    def check_name(self, name: str) -> None:
        """Nothing: an unknown name is not always an error; the handlers say."""

    @inference
    async def infer(self, request: Request) -> Response:
        if request.header("x-amz-target") is not None:
            raise Declined(InvalidRequest("This is AWS's JSON protocol", got="X-Amz-Target"))
        self._authorize(request)
        parse = partial(
            messages.parse,
            content_type=request.header("content-type"),
            model_name=self.model.name,
            autoconvert=self._settings.autoconvert_base64,
        )
        return _answer(await self._predict(request, parse), _JSON)

    async def health(self, _: Request) -> Response:
        self.model.check_ready()
        return _answer(b"healthy", _HTML)

    async def list_models(self, request: Request) -> Response:
        self._authorize(request)
        return _json_as_html([self._describe()])

    async def describe_model(self, request: Request) -> Response:
        self._authorize(request)
        name = request.path_params["model"]
        if not self._is_own(name):
            # With upstream's status, which is no error's.
            return _answer(f"Model not found: {escape(name)}".encode(), _HTML)
        return _json_as_html(self._describe())

    async def generate_json(self, request: Request) -> Response:
        self._authorize(request)
        self._check_path(request)
        return _answer(await self._generate(request, dict(request.query()), "json"), _JSON)

    async def generate_client(self, request: Request) -> Response:
        self._authorize(request)
        self._check_path(request)
        query = dict(request.query())
        language = query.get("language") or "bash"
        source = await self._generate(request, query, language)
        return _answer(source, _JSON if language == "json" else _TEXT)

    async def image_form(self, _: Request) -> Response:
        return self._page(pages.IMAGE)

    @inference
    async def run_image_inference(self, request: Request) -> Response:
        def parse(body: Buffer) -> Query:
            return messages.parse_form(self._fields(request, body))

        return await self._answer_form(request, pages.IMAGE, partial(self._predict, request, parse))

    async def json_form(self, _: Request) -> Response:
        return self._page(pages.JSON)

    @inference
    async def run_json_inference(self, request: Request) -> Response:
        def parse(body: Buffer) -> Query:
            return messages.parse_json_form(
                self._fields(request, body), autoconvert=self._settings.autoconvert_base64
            )

        return await self._answer_form(request, pages.JSON, partial(self._predict, request, parse))

    async def clients_form(self, _: Request) -> Response:
        return self._page(_CLIENTS)

    async def run_generate_clients(self, request: Request) -> Response:
        async def generate() -> bytes:
            body = await request.body()
            texts = await self.model.offload(partial(self._texts, request, body), len(body))
            return await self._generate(request, texts, texts.get("language") or "bash")

        return await self._answer_form(request, _CLIENTS, generate)

    @classmethod
    def render_error(cls, error: ServingError) -> Response:
        """Errors are `{"error"}`, with status 400 for a failing model too; too large, too slow and
        not ready are ours, and keep the statuses that HTTP has for them."""
        if isinstance(error, Unauthorized):
            # Upstream's header has a quotation mark too many, and browsers then ask nobody.
            challenge = {"www-authenticate": 'Basic realm="Login Required"'}
            text = b"Need basic auth to request the resources"
            return _answer(text, _HTML, status=401, headers=challenge)
        return _answer(
            json.encode({"error": str(error)}) + b"\n",
            _JSON,
            status=_status(error),
            headers=retry_headers(error),
        )

    async def _predict(self, request: Request, parse: Callable[[Buffer], Query]) -> bytes:
        """Return the results of an inference request, in JSON."""
        model = self.model
        model.check_admission()
        body = await request.body()

        def read() -> tuple[Servable, Sequence[Encoded]]:
            query = parse(body)
            servable = messages.select(model, query.version, query.signature)
            return servable, messages.read_items(query, servable)

        work = messages.work_bytes(body, request.header("content-type"))
        servable, items = await model.offload(read, work)
        return await written(
            model,
            rows(await model.predict(items, servable=servable, timing=request.timing)),
            partial(messages.render, specs=servable.metadata.outputs),
        )

    async def _generate(self, request: Request, query: Mapping[str, str], language: str) -> bytes:
        """Return an example in JSON, or the source of a client that sends it to the model, under
        the address at which this request came."""
        if language not in LANGUAGES:
            raise InvalidRequest(
                "No such language",
                expected=f"one of {', '.join(LANGUAGES)}",
                got=repr(language[:100]),
            )
        signature = query.get("signature_name") or None
        servable = messages.select(self.model, None, signature)
        data = example_data(servable, max_items=self.model.settings.limits.max_items)
        if language == "json":
            write = partial(json.encode, {"data": data})
        else:
            prefix = _BELOW_PREFIX.sub("", request.path)
            fields = {"model_name": self.model.name, "data": data}
            write = partial(
                write_client,
                language,
                endpoint_url(request.header, prefix),
                fields if signature is None else fields | {"signature_name": signature},
                has_auth=self._auth.is_required,
            )
        return await self.model.offload(write, example_bytes(data))

    async def _answer_form(
        self, request: Request, page: Page, answer: Callable[[], Awaitable[bytes]]
    ) -> Response:
        """Return a form's page with the answer to what it sent, or with the error."""
        self._authorize(request)
        try:
            text = await answer()
        except ServingError as exc:
            release(exc)
            return self._page(
                page, str(exc), status=_status(exc), headers=retry_headers(exc), is_error=True
            )
        return await self.model.offload(lambda: self._page(page, str(text, "utf-8")), len(text))

    def _page(
        self,
        page: Page,
        answer: str | None = None,
        *,
        is_error: bool = False,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        body = page.render(self.model.name, answer, is_error=is_error).encode()
        return _answer(body, _HTML, status=status, headers={**pages.HEADERS, **(headers or {})})

    def _fields(self, request: Request, body: Buffer) -> list[Field]:
        fields = form.parse(body, request.header("content-type"))
        name = messages.text_of(fields, "model_name") or messages.DEFAULT_NAME
        messages.check_model_name(name, self.model.name)
        return fields

    def _texts(self, request: Request, body: Buffer) -> dict[str, str]:
        return {field.name: field.text for field in self._fields(request, body)}

    def _authorize(self, request: Request) -> None:
        self._auth.check(request.header("authorization"))

    def _check_path(self, request: Request) -> None:
        if not self._is_own(name := request.path_params["model"]):
            raise super().unknown_model(name, [self.model.name])

    def _is_own(self, name: str) -> bool:
        return name in (self.model.name, messages.DEFAULT_NAME)

    def _describe(self) -> dict[str, Any]:
        model = self.model
        default = model.versions.default
        return {
            "model_name": model.name,
            # Upstream tells everybody where on its disk the model lies.
            "model_base_path": "",
            "model_version_list": list(dict.fromkeys(each.version for each in model.versions)),
            "model_signature": describe_signature(default, model.observed_outputs.of(default)),
            "platform": model.metadata.platform,
        }


def _answer(
    body: bytes,
    media_type: str,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    return Response(body, status=status, media_type=media_type, headers=headers)


def _json_as_html(value: Any) -> Response:
    """Answer JSON that upstream calls HTML, for clients that go by it, such that a browser which
    believes it finds no tags."""
    text = json.encode(value)
    for character in (b"<", b">", b"&"):
        text = text.replace(character, b"\\u00%02x" % ord(character))
    return _answer(text, _HTML)


def _status(error: ServingError) -> int:
    keep_their_own = (RequestTooLarge, BodyTimeout)
    if isinstance(error, InvalidRequest | PredictError) and not isinstance(error, keep_their_own):
        return 400
    return status_of(error)
