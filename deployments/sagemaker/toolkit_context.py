"""The context that functions of the SageMaker inference toolkit may take as their last argument.

Source: awslabs/multi-model-server, mms/context.py and mms/service.py; pytorch/serve 0.12,
ts/context.py, which has a few names more.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from deployments.sagemaker.toolkit_metrics import MetricsStore
from rayserve_app.types import Invocation, Reply

CONTENT_TYPE: Final = "content-type"

SAGEMAKER: Final = "x-amzn-sagemaker-"

MODEL_NAME: Final = "model"

MANIFEST: Final = "MAR-INF/MANIFEST.json"


class Headers(dict[str, Any]):
    """Headers under their customary names, in which case does not matter."""

    def get(self, key: str, default: Any = None) -> Any:
        return super().get(self._spelt(key), default)

    def __getitem__(self, key: str) -> Any:
        return super().__getitem__(self._spelt(key))

    def __contains__(self, key: object) -> bool:
        return super().__contains__(self._spelt(key))

    def _spelt(self, key: Any) -> Any:
        if super().__contains__(key):
            return key
        lower = str(key).lower()
        return next((name for name in self if name.lower() == lower), key)


class RequestProcessor:
    """The headers of one request, and status and headers of its answer."""

    def __init__(self, invocation: Invocation) -> None:
        self._invocation = invocation
        self._status_code: Any = 200
        self._reason_phrase: str | None = None
        self._response_header: dict[str, Any] = {}

    @cached_property
    def _request_header(self) -> Mapping[str, Any]:
        """The headers, made for code that asks for them."""
        return Headers(_headers(self._invocation))

    def get_request_property(self, key: str) -> Any:
        return self._request_header.get(key)

    def get_request_properties(self) -> Mapping[str, Any]:
        return self._request_header

    def report_status(self, code: Any, reason_phrase: str | None = None) -> None:
        self._status_code = code
        self._reason_phrase = reason_phrase

    def get_response_status_code(self) -> Any:
        return self._status_code

    def get_response_status_phrase(self) -> str | None:
        """Return what nobody is told: ASGI carries no reason phrase."""
        return self._reason_phrase

    def add_response_property(self, key: str, value: Any) -> None:
        self._response_header[key] = value

    def get_response_headers(self) -> dict[str, Any]:
        return self._response_header

    def get_response_header(self, key: str) -> Any:
        return self._response_header.get(key)


class Context:
    """What user code may ask of its model and its request, and set for its answer."""

    def __init__(
        self, model_dir: Path, manifest: dict[str, Any], invocation: Invocation | None = None
    ) -> None:
        """Keep the request, which there is none of while the model is loaded."""
        self.model_name = MODEL_NAME
        self.manifest = manifest
        self.system_properties: dict[str, Any] = {
            "model_dir": str(model_dir),
            "gpu_id": 0 if os.environ.get("CUDA_VISIBLE_DEVICES") else None,
            "batch_size": 1,
            "server_name": "MMS",
            "server_version": "1.1.11",
            "limit_max_image_pixels": True,
        }
        self.model_yaml_config: dict[str, Any] = {}
        self.stopping_criteria = None
        self.request_processor: list[RequestProcessor] | None = None
        self.request_ids: dict[int, str] | None = None
        request_id = None
        if invocation is not None:
            request_id = str(uuid.uuid4())
            self.request_ids = {0: request_id}
            self.request_processor = [RequestProcessor(invocation)]
        self.metrics = MetricsStore(request_id, self.model_name)

    def get_request_id(self, idx: int = 0) -> str | None:
        return (self.request_ids or {}).get(idx)

    def get_request_header(self, idx: int, key: str) -> Any:
        return self._of(idx).get_request_property(key)

    def get_all_request_header(self, idx: int) -> Mapping[str, Any]:
        return self._of(idx).get_request_properties()

    def set_response_content_type(self, idx: int, value: Any) -> None:
        self.set_response_header(idx, CONTENT_TYPE, value)

    def get_response_content_type(self, idx: int) -> Any:
        return self.get_response_headers(idx).get(CONTENT_TYPE)

    def get_response_status(self, idx: int) -> tuple[Any, str | None]:
        processor = self._of(idx)
        return processor.get_response_status_code(), processor.get_response_status_phrase()

    def set_response_status(self, code: Any = 200, phrase: str = "", idx: int = 0) -> None:
        if self.request_processor is not None:
            self.request_processor[idx].report_status(code, reason_phrase=phrase)

    def set_all_response_status(self, code: Any = 200, phrase: str = "") -> None:
        for processor in self.request_processor or ():
            processor.report_status(code, reason_phrase=phrase)

    def get_response_headers(self, idx: int) -> dict[str, Any]:
        return self._of(idx).get_response_headers()

    def set_response_header(self, idx: int, key: str, value: Any) -> None:
        self._of(idx).add_response_property(key, value)

    def get_sequence_id(self, idx: int) -> Any:
        key = os.environ.get("TS_REQUEST_SEQUENCE_ID", "ts_request_sequence_id")
        return self._of(idx).get_request_property(key)

    def reply(self, body: bytes | str) -> Reply:
        """Return an answer with the status and the headers that were set."""
        processor = self._of(0)
        # Netty's headers know no case: of two spellings the one that was set last counts.
        headers = {
            str(name).lower(): value for name, value in processor.get_response_headers().items()
        }
        content_type = headers.pop(CONTENT_TYPE, None)
        status = processor.get_response_status_code()
        return Reply(
            body,
            None if content_type is None else str(content_type),
            200 if status is None else int(status),
            tuple((name, str(value)) for name, value in headers.items() if value is not None),
        )

    def _of(self, idx: int) -> RequestProcessor:
        if self.request_processor is None:
            raise RuntimeError("There is no request while the model is loaded")
        return self.request_processor[idx]


def _headers(invocation: Invocation) -> Iterator[tuple[str, Any]]:
    """Return a request's headers, those first that protocols may have in others' stead; and of the
    one input, as of each, a header of its own."""
    if invocation.content_type is not None:
        yield "body", {CONTENT_TYPE: invocation.content_type.partition(";")[0].strip()}
    told = {
        CONTENT_TYPE: invocation.content_type,
        "accept": invocation.accept,
        f"{SAGEMAKER}custom-attributes": invocation.custom_attributes,
    }
    for name, value in told.items():
        if value is not None:
            yield _customary(name), value
    for name, value in invocation.headers:
        if name.lower() not in told:
            yield _customary(name), value


def _customary(name: str) -> str:
    """Return a header's name as it is mostly written, for code that looks for just that."""
    lower = name.lower()
    words = lower.removeprefix(SAGEMAKER).split("-")
    written = "-".join(word.capitalize() for word in words)
    return f"X-Amzn-SageMaker-{written}" if lower.startswith(SAGEMAKER) else written


def read_manifest(model_dir: Path) -> dict[str, Any]:
    """Return the manifest of a package that was made by the model archiver; else one that says
    what the toolkit's says."""
    try:
        manifest = json.loads((model_dir / MANIFEST).read_bytes())
    except (OSError, ValueError):
        manifest = None
    if isinstance(manifest, dict):
        return manifest
    handler = "sagemaker_inference.default_handler_service"
    return {"runtime": "python", "model": {"modelName": MODEL_NAME, "handler": handler}}
