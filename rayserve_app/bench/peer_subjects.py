"""The peers of each job and how they are configured; what they run stands in peers/.

Where a documentation leaves a choice, what was fastest here was taken. On the job with a model of
50 ms per batch each has one model that runs one batch at a time, as one device does, and batches of
up to 32.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from rayserve_app.bench.envelopes import BOUNDARY
from rayserve_app.bench.instance import free_port
from rayserve_app.bench.networks import WEIGHTS_VARIABLE
from rayserve_app.bench.peer_servers import PREDICT, PROGRAMS, Peer, Place, Route
from rayserve_app.process.cores import available_cores

BASE64: Final = "base64 JSON"
FAST: Final = "fast"
SLOW: Final = "slow"
"""Names of routes."""

MODEL: Final = "model"
"""The name of MLServer's model where it has one."""

BATCH_WAIT_S: Final = 0.05
"""MLServer's `max_batch_time`. Below the time of a batch its queue grows: it starts a batch
whenever this has passed, whatever its worker does."""


def raw(body: bytes, content_type: str) -> tuple[bytes, str]:
    """Send what is to be sent as it is."""
    return body, content_type


def _json(document: Any) -> tuple[bytes, str]:
    return json.dumps(document).encode(), "application/json"


def _base64_json(body: bytes, content_type: str) -> tuple[bytes, str]:
    return _json({"image": b64encode(body).decode()})


def _bentoml_list(body: bytes, content_type: str) -> tuple[bytes, str]:
    """BentoML batches lists: a request has one of one input."""
    return _json({"inputs": [body.decode()]})


def _bentoml_file(body: bytes, content_type: str) -> tuple[bytes, str]:
    """Send a form with a list of one file, which `list[Path]` takes."""
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="image"\r\n'
        f"Content-Type: {content_type}\r\n\r\n"
    )
    form = head.encode() + body + f"\r\n--{BOUNDARY}--\r\n".encode()
    return form, f"multipart/form-data; boundary={BOUNDARY}"


def _inference_request(datatype: str, data: Any, **parameters: str) -> tuple[bytes, str]:
    tensor = {"name": "inputs", "shape": [1, 1], "datatype": datatype, "data": [data]}
    return _json({"inputs": [{**tensor, "parameters": parameters}]})


def _base64_tensor(body: bytes, content_type: str) -> tuple[bytes, str]:
    return _inference_request("BYTES", b64encode(body).decode(), content_type="base64")


def _number_tensor(body: bytes, content_type: str) -> tuple[bytes, str]:
    return _inference_request("INT32", len(body))


def _itself(body: bytes) -> bytes:
    return body


def _first(body: bytes) -> Any:
    return json.loads(body)[0]


def _output(body: bytes) -> Any:
    return json.loads(body)["outputs"][0]["data"]


def _only_output(body: bytes) -> Any:
    return _output(body)[0]


def _base64_output(body: bytes) -> bytes:
    return b64decode(_only_output(body))


def _litserve(
    job: str,
    workers: int,
    routes: Mapping[str, Route],
    variables: Mapping[str, str] | None = None,
) -> Peer:
    def command(place: Place) -> list[str]:
        program = str(PROGRAMS / "litserve_api.py")
        return [str(place.bin / "python"), program, job, str(place.port), str(workers)]

    return Peer("LitServe", "litserve", command, routes, variables or {})


def _bentoml(
    service: str, routes: Mapping[str, Route], variables: Mapping[str, str] | None = None
) -> Peer:
    def command(place: Place) -> list[str]:
        return [
            *(str(place.bin / "bentoml"), "serve", f"bentoml_service:{service}"),
            *("--working-dir", str(PROGRAMS), "--host", "127.0.0.1", "--port", str(place.port)),
        ]

    return Peer("BentoML", "bentoml", command, routes, variables or {})


def _mlserver(
    models: Mapping[str, Mapping[str, Any]],
    workers: int,
    routes: Mapping[str, Route],
    variables: Mapping[str, str] | None = None,
    name: str = "MLServer",
) -> Peer:
    """Return one with these models, by name, each a `runtime` and more of its settings."""
    return Peer(
        name, "mlserver", partial(_mlserver_command, models, workers), routes, variables or {}
    )


def _mlserver_command(
    models: Mapping[str, Mapping[str, Any]], workers: int, place: Place
) -> list[str]:
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
    for name, model in models.items():
        runtime = {"implementation": f"mlserver_runtime.{model['runtime']}"}
        others = {key: value for key, value in model.items() if key != "runtime"}
        folder = place.folder / name
        folder.mkdir()
        document = json.dumps({"name": name, **runtime, **others})
        (folder / "model-settings.json").write_text(document)
    return [str(place.bin / "mlserver"), "start", str(place.folder)]


def _infer(
    wrap: Callable[[bytes, str], tuple[bytes, str]],
    read: Callable[[bytes], Any] = _output,
    model: str = MODEL,
) -> Route:
    return Route(f"/v2/models/{model}/infer", wrap, read)


MODEL_APIS: Final = (
    _litserve(
        "size",
        available_cores(),
        {
            PREDICT: Route("/predict", raw, json.loads),
            BASE64: Route("/base64", _base64_json, json.loads),
        },
    ),
    _bentoml(
        "ImageSize",
        {
            PREDICT: Route("/size", raw, json.loads),
            BASE64: Route("/size_of_base64", _base64_json, json.loads),
        },
    ),
    # In the server's process: with its one or two workers it was slower. Its REST API takes JSON
    # only, so that both routes are one.
    _mlserver(
        {MODEL: {"runtime": "ImageSize"}},
        0,
        {PREDICT: _infer(_base64_tensor), BASE64: _infer(_base64_tensor)},
    ),
)
"""An image's size, through what each calls its model."""

HANDLER: Final = _mlserver(
    {MODEL: {"runtime": "ImageSize"}},
    0,
    {PREDICT: Route("/size", raw, json.loads)},
    name="MLServer handler",
)
"""An image's size, past the model: MLServer's `custom_handler`, in the server's process."""

BATCHERS: Final = (
    _litserve("sleep", 1, {PREDICT: Route("/predict", raw, json.loads)}),
    _bentoml("Sleep", {PREDICT: Route("/predict", _bentoml_list, _first)}),
    _mlserver(
        {MODEL: {"runtime": "Sleep", "max_batch_size": 32, "max_batch_time": BATCH_WAIT_S}},
        1,
        {PREDICT: _infer(_number_tensor, _only_output)},
    ),
)
"""A model of 50 ms per batch, through each one's batcher."""


def networks(weights: Path) -> tuple[Peer, ...]:
    """Return servers of the bench's network: batches of up to 8, one on each core."""
    variables = {WEIGHTS_VARIABLE: str(weights)}
    batches = {"max_batch_size": 8, "max_batch_time": BATCH_WAIT_S}
    cores = available_cores()
    return (
        _litserve("network", cores, {PREDICT: Route("/predict", raw, json.loads)}, variables),
        _bentoml("Network", {PREDICT: Route("/predict", _bentoml_file, _first)}, variables),
        _mlserver(
            {MODEL: {"runtime": "Network", **batches}},
            cores,
            {PREDICT: _infer(_base64_tensor)},
            variables,
        ),
    )


LARGE_ANSWERS: Final = (
    _litserve("heads", 1, {PREDICT: Route("/predict", raw, _itself)}),
    _bentoml("Heads", {PREDICT: Route("/predict", raw, _itself)}),
    _mlserver({MODEL: {"runtime": "Heads"}}, 0, {PREDICT: _infer(_base64_tensor, _base64_output)}),
)
"""A packed stream of ten JPEGs to 54.8 MB; MLServer's in base64, for its REST API answers JSON."""

DECODERS: Final = (
    _litserve("colors", available_cores(), {PREDICT: Route("/predict", raw, json.loads)}),
    _bentoml("Colors", {PREDICT: Route("/predict", raw, json.loads)}),
    _mlserver({MODEL: {"runtime": "Colors"}}, available_cores(), {PREDICT: _infer(_base64_tensor)}),
)
"""A JPEG that is decoded whole, and no model to speak of."""

NEIGHBOURS: Final = (
    _litserve(
        "neighbours",
        1,
        {FAST: Route("/fast", raw, json.loads), SLOW: Route("/slow", raw, json.loads)},
    ),
    _bentoml(
        "Neighbours",
        {FAST: Route("/fast", raw, json.loads), SLOW: Route("/slow", raw, json.loads)},
    ),
    # A pool of workers is several models' unless its group says otherwise.
    _mlserver(
        {
            FAST: {"runtime": "ImageSize", "parameters": {"inference_pool_gid": FAST}},
            SLOW: {"runtime": "Texture", "parameters": {"inference_pool_gid": SLOW}},
        },
        1,
        {name: _infer(_base64_tensor, model=name) for name in (FAST, SLOW)},
    ),
)
"""An image's size beside the texture of an image, each in a process of its own."""
