"""Bodies of all media types that a model's OpenAPI document lists, and of those that it does not,
against what a live server takes."""

from __future__ import annotations

import io
import json
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from PIL import Image

from rayserve_app.settings.protocols import PROTOCOLS
from rayserve_app.types import Metadata, TensorSpec
from tests.codecs.test_recordio import part as recordio
from tests.codecs.test_tfrecord import stream_of as tfrecord
from tests.protocols import create_model
from tests.protocols.servers import serving

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"


def picture(form: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (6, 4), (200, 100, 50)).save(file, form)
    return file.getvalue()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


PNG = picture("PNG")
IMAGES = {
    f"image/{form.lower()}": picture(form) for form in ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
}
S3S = {"binary/octet-stream": PNG, "application/x-image": PNG}
IN_BASE64 = b64encode(PNG).decode()
FLOATS = np.ones((2, 3), np.float32)


class Case(NamedTuple):
    """A model and good bodies by their media types; of a form the field."""

    input: dict[str, Any]
    json: Any
    bodies: Mapping[str, bytes]
    field: bytes | None = None
    inputs: tuple[TensorSpec, ...] = ()


CASES = {
    "strings": Case(
        {"type": "string"},
        "abc",
        {
            "text/plain": b"abc",
            "application/octet-stream": b"abc",
            "binary/octet-stream": b"abc",
        },
        b"abc",
    ),
    "images": Case(
        {"type": "image"},
        IN_BASE64,
        IMAGES
        | S3S
        | {
            "application/octet-stream": PNG,
            "application/x-npy": npy(np.zeros((4, 6, 3), np.uint8)),
            "text/plain": IN_BASE64.encode(),
        },
        IN_BASE64.encode(),
    ),
    "bytes": Case(
        {"type": "bytes"},
        IN_BASE64,
        IMAGES | S3S | {"application/octet-stream": PNG, "text/plain": IN_BASE64.encode()},
        IN_BASE64.encode(),
    ),
    "packed streams": Case(
        {"type": "bytes", "codec": "packed_jpeg"},
        IN_BASE64,
        IMAGES
        | S3S
        | {
            "application/octet-stream": PNG,
            "application/x-packed-jpeg": len(PNG).to_bytes(4, "big") + PNG,
            "text/plain": IN_BASE64.encode(),
        },
        IN_BASE64.encode(),
    ),
    "TFRecord": Case(
        {"type": "bytes", "codec": "tfrecord"},
        IN_BASE64,
        IMAGES
        | S3S
        | {
            "application/octet-stream": PNG,
            "application/x-tfrecord": tfrecord(PNG),
            "text/plain": IN_BASE64.encode(),
        },
        IN_BASE64.encode(),
    ),
    "RecordIO": Case(
        {"type": "image", "codec": "recordio"},
        IN_BASE64,
        IMAGES
        | S3S
        | {
            "application/octet-stream": PNG,
            "application/x-npy": npy(np.zeros((4, 6, 3), np.uint8)),
            "application/x-recordio": recordio(PNG),
            "text/plain": IN_BASE64.encode(),
        },
        IN_BASE64.encode(),
    ),
    "vectors": Case(
        {"type": "floats"},
        FLOATS.tolist(),
        {"text/csv": b"1.5,2,3\n4,5,6", "application/x-npy": npy(FLOATS)},
        b"[1.5, 2.5]",
    ),
    "a tensor": Case(
        {"type": "tensor"},
        FLOATS.tolist(),
        {"text/csv": b"1,2,3", "application/x-npy": npy(FLOATS)},
        b"[1.5, 2, 3]",
        (TensorSpec("x", "float32", (-1, 3)),),
    ),
    "named tensors": Case(
        {"type": "tensors"},
        {"x": [1, 2, 3]},
        {},
        b"[1, 2, 3]",
        (TensorSpec("x", "float32", (-1, 3)),),
    ),
}

OF_INPUT = (
    "/predict",
    "/invocations",
    "/models/{model}/invoke",
    "/predictions/{model}",
    "/endpoints/{model}/invocations",
)
"""Where a body is what the model takes, whatever that is."""

UNKNOWN = ("application/xml", "video/mp4", "application/x-parquet")


@contextmanager
def served(case: Case) -> Iterator[httpx.Client]:
    model = create_model(
        lambda items: [1] * len(items),
        metadata=Metadata("test", case.inputs),
        input=case.input,
        protocols=list(PROTOCOLS),
        warm_up=False,
    )
    with serving(model) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def form_of(name: str, value: bytes) -> tuple[bytes, str]:
    head = f'--B\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode()
    return head + value + b"\r\n--B--\r\n", f"{MULTIPART}; boundary=B"


def good_body(case: Case, media_type: str) -> tuple[bytes, str]:
    """Return a body that the model takes, and its Content-Type."""
    if media_type == JSON:
        return json.dumps(case.json).encode(), JSON
    if media_type == "application/jsonlines":
        lines = case.json if isinstance(case.json, list) else [case.json]
        return "\n".join(map(json.dumps, lines)).encode(), media_type
    name = case.inputs[0].name if case.inputs else "x"
    if media_type == FORM:
        return str(httpx.QueryParams({name: (case.field or b"").decode()})).encode(), FORM
    if media_type == MULTIPART:
        return form_of(name, case.field or b"")
    return case.bodies[media_type], media_type


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_the_document_lists_is_what_is_taken(case: Case) -> None:
    with served(case) as client:
        document = client.get("/openapi.json").json()
        for path in OF_INPUT:
            operation = document["paths"][path]["post"]
            listed = set(operation["requestBody"]["content"])
            assert {*case.bodies, JSON} <= listed, path
            url = path.replace("{model}", "m")
            for media_type in listed:
                body, content_type = good_body(case, media_type)
                response = client.post(url, content=body, headers={"content-type": content_type})
                assert response.status_code == 200, (path, media_type, response.text)
            for media_type in {*ALL_TYPES, *UNKNOWN} - listed:
                body = ALL_TYPES.get(media_type, b"<a/>")
                response = client.post(url, content=body, headers={"content-type": media_type})
                assert response.status_code in (400, 415, 424), (path, media_type)
                assert str(response.status_code) in operation["responses"], (path, media_type)


ALL_TYPES: dict[str, bytes] = {
    media_type: body for case in CASES.values() for media_type, body in case.bodies.items()
}


async def test_the_document_of_a_model_of_whole_requests_lists_all() -> None:
    case = Case({"type": "request"}, {}, {})
    with served(case) as client:
        document = client.get("/openapi.json").json()
        content = document["paths"]["/invocations"]["post"]["requestBody"]["content"]
        assert {"text/csv", "text/plain", "image/jpeg", "application/x-npy", JSON} <= set(content)


IMAGE_CASES = [CASES["images"], CASES["bytes"], CASES["packed streams"]]


@pytest.mark.parametrize("case", IMAGE_CASES)
def test_an_image_posted_to_predict_is_predicted(case: Case) -> None:
    with served(case) as client:
        for headers in (
            {"content-type": "image/png"},
            {"content-type": "application/octet-stream"},
            {},
        ):
            response = client.post("/predict", content=PNG, headers=headers)
            assert (response.status_code, response.json()) == (200, 1)
        response = client.post("/predict", files={"image": ("a.png", PNG, "image/png")})
        assert (response.status_code, response.json()) == (200, 1)
        response = client.post("/invocations", files={"image": ("a.png", PNG, "image/png")})
        assert (response.status_code, response.json()) == (200, 1)


def test_a_broken_image_is_told_by_who_takes_images() -> None:
    with served(CASES["images"]) as client:
        response = client.post("/predict", content=PNG[:20], headers={"content-type": "image/png"})
        assert response.status_code == 400
        assert response.json()["type"] == "BadRequestException"
        assert "JSON" not in response.text


@pytest.mark.parametrize(
    ("order", "body", "keys"),
    [
        (["clipper", "cluster_serving", "multi_model_server"], b"{}", {"error", "cause"}),
        (["clipper", "cluster_serving", "multi_model_server"], b'{"input"', {"error", "cause"}),
        (["clipper", "cluster_serving", "multi_model_server"], b"5", {"error", "cause"}),
        (["multi_model_server", "clipper"], b"5", {"code", "type", "message"}),
    ],
)
def test_a_document_that_nobody_takes_is_told_by_the_first(
    order: Sequence[str], body: bytes, keys: set[str]
) -> None:
    model = create_model(
        lambda items: [1] * len(items), input={"type": "floats"}, protocols=list(order)
    )
    with serving(model) as url:
        response = httpx.post(f"{url}/predict", content=body, headers={"content-type": JSON})
        assert response.status_code == 400
        assert set(response.json()) == keys


def test_every_protocol_is_reached_at_predict_in_any_order() -> None:
    for order in (
        ["clipper", "cluster_serving", "multi_model_server"],
        ["multi_model_server", "cluster_serving", "clipper"],
        ["cluster_serving", "multi_model_server", "clipper"],
    ):
        model = create_model(
            lambda items: [len(item) for item in items],
            input={"type": "floats"},
            protocols=order,
        )
        with serving(model) as url:
            query = httpx.post(f"{url}/predict", json={"input": [1.5, 2.5]})
            assert query.json()["output"] == 2, order
            instances = httpx.post(f"{url}/predict", json={"instances": [{"x": [1.5, 2.5]}]})
            assert "predictions" in instances.json(), order
            plain = httpx.post(f"{url}/predict", json=[1.5, 2.5])
            assert plain.json() == 2, order


def schemas_with_choices(value: Any) -> Iterator[list[Any]]:
    if isinstance(value, dict):
        if "anyOf" in value:
            yield value["anyOf"]
        for each in value.values():
            yield from schemas_with_choices(each)
    elif isinstance(value, list):
        for each in value:
            yield from schemas_with_choices(each)


@pytest.mark.parametrize("order", [list(PROTOCOLS), list(PROTOCOLS)[::-1]])
def test_no_choice_stands_twice(order: list[str]) -> None:
    model = create_model(lambda items: items, input={"type": "image"}, protocols=order)
    with serving(model) as url:
        document = httpx.get(f"{url}/openapi.json").json()
    choices = list(schemas_with_choices(document))
    assert choices
    for each in choices:
        texts = [json.dumps(schema, sort_keys=True) for schema in each]
        assert len(set(texts)) == len(texts)
    assert "x-of-input" not in json.dumps(document)
