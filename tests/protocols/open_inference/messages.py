"""Models behind the Open Inference Protocol, and requests to them."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import numpy as np

from rayserve_app.app import App, create_app
from rayserve_app.types import Metadata, TensorSpec
from tests.protocols import call, create_model

PROTOCOLS = {"protocols": ["open_inference"]}
LENGTH = "inference-header-content-length"
FLOATS = TensorSpec("INPUT0", "float32", (-1, 4))


def create(
    function: Any,
    *,
    inputs: Sequence[TensorSpec] = (),
    outputs: Sequence[TensorSpec] = (),
    **options: Any,
) -> App:
    metadata = Metadata("test", tuple(inputs), tuple(outputs))
    return create_app(create_model(function, metadata=metadata, **(PROTOCOLS | options)))


def create_echo(spec: TensorSpec = FLOATS, **options: Any) -> App:
    """Return the app of a model of one tensor, which answers it as OUTPUT0 and its sum as SUM."""

    def echo(items: Sequence[Any]) -> dict[str, Any]:
        batch = np.stack(items)
        return {"OUTPUT0": batch, "SUM": batch.reshape(len(batch), -1).sum(axis=1)}

    return create(echo, inputs=[spec], **({"input": {"type": "tensor"}} | options))


def create_lengths(kind: str, codec: str = "raw", **options: Any) -> App:
    """Return the app of a model that answers the length of each item."""
    declared = {"type": kind, "codec": codec}
    return create(lambda items: [len(item) for item in items], **({"input": declared} | options))


def tensor(name: str, datatype: str, shape: list[int], data: Any = None, **more: Any) -> Any:
    fields = {"name": name, "shape": shape, "datatype": datatype}
    return fields | ({} if data is None else {"data": data}) | more


async def infer(
    app: App,
    document: Any,
    *blobs: bytes,
    path: str = "/v2/models/m/infer",
    headers: Mapping[str, str] | None = None,
) -> httpx.Response:
    """Send a request: binary data, if there is any, after the JSON."""
    head = document if isinstance(document, bytes) else json.dumps(document).encode()
    own = {LENGTH: str(len(head))} if blobs else {}
    return await call(
        app, "POST", path, content=b"".join((head, *blobs)), headers=own | dict(headers or {})
    )


def arrays(response: httpx.Response) -> dict[str, Any]:
    """Read an answer as the specification says, with numpy alone."""
    assert response.status_code == 200, response.text
    length = int(response.headers.get(LENGTH, len(response.content)))
    document, rest = json.loads(response.content[:length]), response.content[length:]
    found = {}
    for output in document["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            data, blob = output["data"], b""
        else:
            blob, rest = rest[:size], rest[size:]
            data = elements(blob) if output["datatype"] == "BYTES" else None
        if data is None:
            data = np.frombuffer(blob, DTYPES[output["datatype"]])
        found[output["name"]] = np.reshape(data, output["shape"]).tolist()
    assert rest == b""
    return found


def elements(blob: bytes) -> list[bytes]:
    found = []
    while blob:
        (length,) = struct.unpack_from("<I", blob)
        found.append(blob[4 : 4 + length])
        blob = blob[4 + length :]
    return found


def length_prefixed(*values: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


DTYPES = {
    "BOOL": "?",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}


def create_images(codec: str = "raw", **options: Any) -> App:
    """Return the app of a model that answers the mean of each image."""
    declared = {"type": "image", "codec": codec, "size": [8, 12]} | options
    return create(
        lambda images: {"mean": np.stack(images).mean(axis=(1, 2, 3), dtype=np.float32)},
        input=declared,
    )


ONE = {"name": "INPUT0", "shape": [1, 4], "datatype": "FP32"}
ITS_DATA = {"data": [1, 2, 3, 4]}


def one(**changes: Any) -> dict[str, Any]:
    return {"inputs": [ONE | ITS_DATA | changes]}


async def get(app: App, path: str) -> httpx.Response:
    return await call(app, "GET", path)


async def post(app: App, path: str, document: Any = None) -> httpx.Response:
    content = b"" if document is None else json.dumps(document).encode()
    return await call(app, "POST", path, content=content)


NAMED = (
    TensorSpec("x", "float32", (-1, 2, -1)),
    TensorSpec("n", "string", (-1,)),
)
