"""What a hostile or careless client sends: a 4xx that names the fault, and the model goes on."""

from __future__ import annotations

import base64
import io
import json
import select
import socket
import struct
import threading
import time
import zlib
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.serve.conftest import Server

pytestmark = pytest.mark.serve

DEADLINE = "Failed to retrieve a prediction response within the specified latency SLO"
"""Clipper's words for a missed deadline."""


def png(width: int = 64, height: int = 48) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 128, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def jpeg() -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (512, 512, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


def bomb() -> bytes:
    """Return a whole PNG of 50,000 x 50,000 pixels in a few kilobytes of zeros."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1_000_000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def packed(*images: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(image)) + image for image in images)


BAD_BODIES: list[Any] = [
    pytest.param("colors", b"not an image", 400, "image", id="not an image"),
    pytest.param("colors", jpeg()[:3000], 400, "JPEG", id="truncated JPEG"),
    pytest.param("colors", png()[:-30], 400, "PNG", id="truncated PNG"),
    pytest.param("colors", b"", 400, "image", id="empty body"),
    pytest.param("image-example", bomb(), 413, "50000", id="bomb, bytes"),
    pytest.param("colors", bomb(), 413, "50000", id="bomb, image"),
    pytest.param("yolov3", packed(jpeg(), bomb()), 413, "images[1]", id="bomb, packed"),
    pytest.param("deep_image_model", bomb(), 413, "50000", id="bomb, base64 string"),
    pytest.param("image-example-string", bomb(), 413, "50000", id="bomb, metadata"),
    pytest.param("colors", bytes(2_100_000), 413, "2000000 bytes", id="body over the limit"),
    pytest.param("yolov3", packed(jpeg())[:-5], 400, "images[0]", id="length past the end"),
    pytest.param("yolov3", b"\0\0\0\0", 400, "", id="zero images"),
    pytest.param("yolov3", b"\0\0\0\1x" * 1_000_000, 413, "64", id="a million lengths"),
    pytest.param(
        "yolov3", packed(*[jpeg()] * 3, b"bad!", *[jpeg()] * 6), 400, "[3]", id="one bad among ten"
    ),
]


@pytest.mark.parametrize(("model", "body", "status", "names"), BAD_BODIES)
def test_bad_bodies(client: httpx.Client, model: str, body: bytes, status: int, names: str) -> None:
    headers = {"content-type": "application/octet-stream"}
    answer = client.post(f"/{model}/invocations", content=body, headers=headers)
    assert (answer.status_code, names in answer.json()["error"]) == (status, True), answer.text


BAD_JSON: list[Any] = [
    pytest.param("image-example", b"{bad", "JSON parse error", id="no JSON"),
    pytest.param("image-example", b'["x"]', "object", id="no object"),
    pytest.param("image-example", b'{"input":' + b"[" * 70 + b"]" * 70 + b"}", "deep", id="deep"),
    pytest.param("image-example", b'{"input":"a*b="}', "base64", id="wrong base64"),
    pytest.param("image-example", b'{"inputs":"aaaa"}', "input or input_batch", id="no input"),
    pytest.param("image-example", b'{"input":["aaaa"]}', "expected type String", id="wrong type"),
    pytest.param("image-example", b'{"input":"","version":1}', "version", id="version no string"),
    pytest.param("image-example-string", b'{"input":{"format":"png"}}', "data", id="no data"),
    pytest.param("image-example-string", b'{"input":"{bad"}', "JSON", id="no JSON inside"),
    pytest.param("image-example", b'\xff\xfe{"input":1}', "JSON", id="no UTF-8"),
]


@pytest.mark.parametrize(("model", "body", "names"), BAD_JSON)
def test_bad_json_is_clippers_json_error(
    client: httpx.Client, model: str, body: bytes, names: str
) -> None:
    answer = client.post(f"/{model}/predict", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"] == "Json error"
    assert names in answer.json()["cause"]


def test_an_unknown_version(client: httpx.Client) -> None:
    answer = client.post("/image-example/predict", json={"input": "", "version": "7"})
    assert answer.status_code == 400
    assert answer.json() == {
        "error": "Query processing error",
        "cause": "Requested version: 7 does not exist for model: image-example",
    }


@pytest.mark.parametrize(
    ("headers", "status", "names"),
    [
        ({"content-type": "application/pdf"}, 415, "application/pdf"),
        ({"content-type": "image/png", "content-encoding": "gzip"}, 415, "gzip"),
        ({"content-type": "image/png", "accept": "image/png"}, 406, "application/json"),
    ],
)
def test_unsupported_types(
    client: httpx.Client, headers: dict[str, str], status: int, names: str
) -> None:
    answer = client.post("/image-example/invocations", content=png(), headers=headers)
    assert answer.status_code == status
    assert names in answer.json()["error"]


def test_a_body_without_content_length_over_the_limit(client: httpx.Client) -> None:
    """2 MB are allowed; the answer comes while the client still sends."""
    address = urlsplit(str(client.base_url))
    with socket.create_connection((address.hostname or "", address.port or 80), 20) as peer:
        peer.sendall(
            b"POST /colors/invocations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(100):
            peer.sendall(b"186a0\r\n" + bytes(100_000) + b"\r\n")
            if select.select([peer], [], [], 0.1)[0]:
                break
        answer = peer.makefile("rb").readline()
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_path_or_a_verb_that_is_not_there(client: httpx.Client) -> None:
    assert client.get("/image-example/nothing").status_code == 404
    error = client.get("/image-example/invocation").json()["error"]
    assert error == "No such path '/invocation'. Did you mean '/invocations'?"
    assert client.get("/image-example/invocations").status_code == 405


TIMEOUTS = ["0", "-1", "nan", "inf", "1e9", "x"]


@pytest.mark.parametrize("timeout", TIMEOUTS)
def test_clients_cannot_lift_the_deadline(client: httpx.Client, timeout: str) -> None:
    """The model sleeps for 2 s, and its deadline is 1.5 s."""
    headers = {"x-request-timeout-seconds": timeout, "x-request-disconnect-disabled": "?1"}
    started_at = time.monotonic()
    answer = client.post("/faulty/predict", json={"input": "sleep"}, headers=headers)
    took_s = time.monotonic() - started_at
    assert answer.status_code == 200, answer.text
    assert answer.json()["output"] == -1.0
    assert answer.json()["default_explanation"] == DEADLINE
    assert took_s < 5, took_s
    assert client.post("/faulty/predict", json={"input": "fine"}).json()["output"] == "FINE"


@pytest.mark.parametrize("timeout", TIMEOUTS)
def test_clients_cannot_lift_the_bodys_time_out(client: httpx.Client, timeout: str) -> None:
    headers = {"x-request-timeout-seconds": timeout, "x-request-disconnect-disabled": "?1"}
    started_at = time.monotonic()
    answer = slow_upload(client, b"POST", {**headers, "content-length": "1000"})
    assert b" 408 " in answer
    assert time.monotonic() - started_at < 10


def slow_upload(client: httpx.Client, verb: bytes, headers: dict[str, str]) -> bytes:
    """Send one byte a second until the server answers; return the answer."""
    address = urlsplit(str(client.base_url))
    with socket.create_connection((address.hostname or "", address.port or 80), 20) as peer:
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        peer.sendall(
            verb + b" /colors/invocations HTTP/1.1\r\nHost: x\r\n" + head.encode() + b"\r\n"
        )
        peer.settimeout(1)
        answer = b""
        for _ in range(15):
            try:
                answer += peer.recv(65536)
            except TimeoutError:
                peer.sendall(b"x")
            if answer.endswith(b"}"):
                break
        return answer


def test_four_slow_clients_beside_good_ones(client: httpx.Client) -> None:
    answers: list[bytes] = []

    def drip() -> None:
        answers.append(slow_upload(client, b"POST", {"content-length": "100000"}))

    slow = [threading.Thread(target=drip) for _ in range(4)]
    for thread in slow:
        thread.start()
    while any(thread.is_alive() for thread in slow):
        good = client.post("/colors/invocations", content=png(), timeout=5)
        assert good.json() == [128.0, 128.0, 128.0]
        time.sleep(0.2)
    assert len(answers) == 4
    assert all(b" 408 " in answer and b'"error"' in answer for answer in answers)


def test_a_client_that_disconnects_leaves_the_model_serving(
    client: httpx.Client, server: Server
) -> None:
    address = urlsplit(server.url)
    for header in ("", "x-request-disconnect-disabled: ?1\r\n"):
        for _ in range(5):
            with socket.create_connection((address.hostname, address.port or 80)) as peer:
                head = f"POST /colors/invocations HTTP/1.1\r\nHost: x\r\n{header}"
                peer.sendall(head.encode() + b"Content-Length: 5000\r\n\r\nhalf")
    assert client.post("/colors/invocations", content=png()).status_code == 200


def test_bad_requests_leave_good_ones_in_the_same_batch_alone(client: httpx.Client) -> None:
    answers: list[Any] = []

    def send(body: bytes) -> None:
        # Where others of late have slept, the model is taken to be slow: it says to come again.
        while (answer := client.post("/faulty/predict", content=body)).status_code == 503:
            time.sleep(0.1)
        answers.append((body, answer.json()))

    words = ["raise", *"abcdefgh"]
    threads = [
        threading.Thread(target=send, args=(json.dumps({"input": word}).encode(),))
        for word in words
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outputs = {json.loads(body)["input"]: answer["output"] for body, answer in answers}
    assert outputs == {"raise": -1.0} | {letter: letter.upper() for letter in "abcdefgh"}
