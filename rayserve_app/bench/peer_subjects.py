"""The peers of each job and how they are configured; what they run stands in peers/.

Where a documentation leaves a choice, what was fastest here was taken. On the job with a model of
50 ms per batch each has one model that runs one batch at a time, as one device does, and batches of
up to 32.
"""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any, Final

from rayserve_app.bench.instance import free_port
from rayserve_app.bench.peer_servers import PROGRAMS, Peer, Place
from rayserve_app.cores import available_cores

MODEL: Final = "model"
"""The name of MLServer's model."""

BATCH_WAIT_S: Final = 0.05
"""MLServer's `max_batch_time`. Below the time of a batch its queue grows: it starts a batch
whenever this has passed, whatever its worker does."""


def raw(body: bytes, content_type: str) -> tuple[bytes, str]:
    """Send what is to be sent as it is."""
    return body, content_type


def _json(document: Any) -> tuple[bytes, str]:
    return json.dumps(document).encode(), "application/json"


def _bentoml_list(body: bytes, content_type: str) -> tuple[bytes, str]:
    """BentoML batches lists: a request has one of one input."""
    return _json({"inputs": [body.decode()]})


def _inference_request(datatype: str, data: Any, **parameters: str) -> tuple[bytes, str]:
    tensor = {"name": "inputs", "shape": [1, 1], "datatype": datatype, "data": [data]}
    return _json({"inputs": [{**tensor, "parameters": parameters}]})


def _base64_tensor(body: bytes, content_type: str) -> tuple[bytes, str]:
    return _inference_request("BYTES", b64encode(body).decode(), content_type="base64")


def _number_tensor(body: bytes, content_type: str) -> tuple[bytes, str]:
    return _inference_request("INT32", len(body))


def _itself(answer: Any) -> Any:
    return answer


def _first(answer: Any) -> Any:
    return answer[0]


def _output(answer: Any) -> Any:
    return answer["outputs"][0]["data"]


def _only_output(answer: Any) -> Any:
    return _output(answer)[0]


def _litserve(job: str, workers: int, place: Place) -> list[str]:
    program = str(PROGRAMS / "litserve_api.py")
    return [str(place.bin / "python"), program, job, str(place.port), str(workers)]


def _bentoml(service: str, place: Place) -> list[str]:
    return [
        *(str(place.bin / "bentoml"), "serve", f"bentoml_service:{service}"),
        *("--working-dir", str(PROGRAMS), "--host", "127.0.0.1", "--port", str(place.port)),
    ]


def _mlserver(runtime: str, workers: int, place: Place, **model: float) -> list[str]:
    """Write the settings' files and return the command: what can be switched off is off."""
    settings = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": place.port,
        "grpc_port": free_port(),
        "metrics_endpoint": None,
        "metrics_dir": str(place.folder),
        "environments_dir": str(place.folder),
        "gzip_enabled": False,
        "parallel_workers": workers,
    }
    (place.folder / "settings.json").write_text(json.dumps(settings))
    named = {"name": MODEL, "implementation": f"mlserver_runtime.{runtime}", **model}
    (place.folder / "model-settings.json").write_text(json.dumps(named))
    return [str(place.bin / "mlserver"), "start", str(place.folder)]


INFER: Final = f"/v2/models/{MODEL}/infer"

MODEL_APIS: Final = (
    Peer(
        "LitServe",
        "litserve",
        lambda place: _litserve("size", available_cores(), place),
        "/predict",
        raw,
        _itself,
    ),
    Peer("BentoML", "bentoml", lambda place: _bentoml("ImageSize", place), "/size", raw, _itself),
    # In the server's process: with its one or two workers it was slower.
    Peer(
        "MLServer",
        "mlserver",
        lambda place: _mlserver("ImageSize", 0, place),
        INFER,
        _base64_tensor,
        _output,
    ),
)
"""An image's size, through what each calls its model."""

HANDLER: Final = Peer(
    "MLServer handler",
    "mlserver",
    lambda place: _mlserver("ImageSize", 0, place),
    "/size",
    raw,
    _itself,
)
"""An image's size, past the model: MLServer's `custom_handler`, in the server's process."""

BATCHERS: Final = (
    Peer(
        "LitServe", "litserve", lambda place: _litserve("sleep", 1, place), "/predict", raw, _itself
    ),
    Peer(
        "BentoML",
        "bentoml",
        lambda place: _bentoml("Sleep", place),
        "/predict",
        _bentoml_list,
        _first,
    ),
    Peer(
        "MLServer",
        "mlserver",
        lambda place: _mlserver("Sleep", 1, place, max_batch_size=32, max_batch_time=BATCH_WAIT_S),
        INFER,
        _number_tensor,
        _only_output,
    ),
)
"""A model of 50 ms per batch, through each one's batcher."""
