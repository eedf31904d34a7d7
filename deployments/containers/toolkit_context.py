"""The context that functions of the SageMaker inference toolkit may take as their last argument.

Source: awslabs/multi-model-server, mms/context.py. Left out: metrics, and response headers other
than the content type, which the toolkit sets itself.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from rayserve_app.types import Invocation


class RequestProcessor:
    """The headers of one request: its content type, `Accept` and custom attributes."""

    def __init__(self, invocation: Invocation) -> None:
        headers = {
            "Content-Type": invocation.content_type,
            "Accept": invocation.accept,
            "X-Amzn-SageMaker-Custom-Attributes": invocation.custom_attributes,
        }
        self._headers = {name: value for name, value in headers.items() if value is not None}

    def get_request_properties(self) -> dict[str, str]:
        return self._headers

    def get_request_property(self, key: str) -> str | None:
        known = {name.lower(): value for name, value in self._headers.items()}
        return known.get(key.lower())


class Context:
    """What user code may ask of its model and its request."""

    def __init__(self, model_dir: Path, invocation: Invocation | None = None) -> None:
        """Keep the request, which there is none of while the model is loaded."""
        self.model_name = "model"
        self.manifest: dict[str, Any] = {}
        self.system_properties = {
            "model_dir": str(model_dir),
            "gpu_id": None,
            "batch_size": 1,
            "server_name": "MMS",
            "server_version": "1.1.11",
        }
        self.request_processor = None if invocation is None else [RequestProcessor(invocation)]
        self.request_ids = {0: str(uuid.uuid4())}
        self.status = 200
        self._content_type: str | None = None

    def get_request_id(self, idx: int = 0) -> str | None:
        return self.request_ids.get(idx)

    def get_request_header(self, idx: int, key: str) -> str | None:
        return self._of(idx).get_request_property(key)

    def get_all_request_header(self, idx: int) -> dict[str, str]:
        return self._of(idx).get_request_properties()

    def set_response_content_type(self, idx: int, value: str) -> None:
        self._content_type = value

    def get_response_content_type(self, idx: int) -> str | None:
        return self._content_type

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        self.status = int(code)

    def _of(self, idx: int) -> RequestProcessor:
        if self.request_processor is None:
            raise RuntimeError("There is no request while the model is loaded")
        return self.request_processor[idx]
