"""What a package's functions learn of a request, and what they may say of their answer: as Multi
Model Server's and TorchServe's contexts have it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest

from rayserve_app.app import App
from rayserve_app.bench.served import mount
from rayserve_app.gateway.app import Gateway
from rayserve_app.gateway.replicas import Address, Directory, ServedModel
from rayserve_app.gateway.settings import GatewaySettings
from tests.deployments.packages import served, write
from tests.protocols import call
from tests.servers import serving

LOAD = "def model_fn(model_dir):\n    return None\n"

TELL = f"""
import json
{LOAD}
def transform_fn(model, data, content_type, accept, context):
    return json.dumps({{"headers": {{key: value for key, value in
                                  context.get_all_request_header(0).items()}},
                       "asked": [context.get_request_header(0, name) for name in
                                 ("X-Mine", "x-mine", "X-AMZN-SageMaker-Target-Model",
                                  "Accept", "absent")],
                       "body": data.decode("latin-1") if isinstance(data, bytearray) else data,
                       "content_type": content_type}})
"""


def package(directory: Path, code: str) -> Path:
    return write(directory, inference_py=code)


async def post(app: App, body: bytes | str = b"[1]", **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named.setdefault("content-type", "application/json")
    return await call(app, "POST", "/invocations", content=body, headers=named)


PLACES = ("/invocations", "/endpoints/m/invocations", "/models/m/invoke", "/predictions/m")


@pytest.mark.parametrize("place", PLACES)
async def test_all_headers_reach_the_context(tmp_path: Path, place: str) -> None:
    headers = {
        "content-type": "text/csv",
        "accept": "a/b",
        "x-mine": "a, b",
        "x-amzn-sagemaker-custom-attributes": "trace=1",
        "x-amzn-sagemaker-inference-id": "17",
        "x-rayserve-forwarded": "",
        "x-rayserve-gateways": "secret",
    }
    with served(package(tmp_path, TELL)) as app:
        response = await call(app, "POST", place, content=b"1,2", headers=headers)
    told = response.json()
    # As HTTP/1.1 clients write them; the entry of the input is Multi Model Server's.
    own = ("Accept-Encoding", "Connection", "Host", "User-Agent", "Content-Length")
    assert {name: value for name, value in told["headers"].items() if name not in own} == {
        "body": {"content-type": "text/csv"},
        "Content-Type": "text/csv",
        "Accept": "a/b",
        "X-Mine": headers["x-mine"],
        "X-Amzn-SageMaker-Custom-Attributes": "trace=1",
        "X-Amzn-SageMaker-Inference-Id": "17",
    }
    assert told["asked"] == [headers["x-mine"], headers["x-mine"], None, "a/b", None]


async def test_headers_do_not_keep_equal_requests_from_one_answer(tmp_path: Path) -> None:
    code = f"calls = []\n{LOAD}\ndef transform_fn(m, data, ct, accept):\n    calls.append(1)\n"
    code += "    return str(len(calls))\n"
    with served(package(tmp_path, code), cache={"max_mb": 1}) as app:
        answers = [(await post(app, x_request=str(index))).text for index in range(3)]
        other = (await post(app, accept="text/plain")).text
    assert (answers, other) == (["1"] * 3, "2")


ANSWER = f"""
{LOAD}
def transform_fn(model, data, content_type, accept, context):
    {{}}
    return data
"""


@pytest.mark.parametrize(
    ("lines", "status", "headers"),
    [
        ('context.set_response_header(0, "X-Mine", "a b")', 200, {"x-mine": "a b"}),
        ('context.get_response_headers(0)["x-mine"] = 1', 200, {"x-mine": "1"}),
        (
            'p = context.request_processor[0]; p.add_response_property("X-Mine", "c");'
            ' p.report_status(207, "Multi"); assert p.get_response_status_code() == 207;'
            ' assert p.get_response_header("X-Mine") == "c"',
            207,
            {"x-mine": "c"},
        ),
        ('context.set_all_response_status(503, "Busy")', 503, {}),
        (
            'context.set_response_status(code=404, phrase="No", idx=0);'
            ' assert context.get_response_status(0) == (404, "No")',
            404,
            {},
        ),
        # The toolkit says last what the content type is, in lower case.
        ('context.set_response_header(0, "Content-Type", "x/y")', 200, {"content-type": "a/b"}),
        ('context.set_response_content_type(0, "x/y")', 200, {"content-type": "a/b"}),
        # The connection's own are not for user code to say.
        ('context.set_response_header(0, "Content-Length", "9")', 200, {"content-length": "3"}),
        (
            'context.set_response_header(0, "X-Amzn-SageMaker-Custom-Attributes", "id=1")',
            200,
            {"x-amzn-sagemaker-custom-attributes": "id=1"},
        ),
    ],
)
async def test_code_says_status_and_headers_of_its_answer(
    tmp_path: Path, lines: str, status: int, headers: dict[str, str]
) -> None:
    with served(package(tmp_path, ANSWER.format(lines))) as app:
        response = await post(app, b"abc", accept="a/b")
    assert (response.status_code, response.text) == (status, "abc")
    assert {name: response.headers.get(name) for name in headers} == headers


@pytest.mark.parametrize("value", ["a\r\nb: c", "\u2014"])
async def test_a_header_that_is_none_is_refused(tmp_path: Path, value: str) -> None:
    lines = f'context.set_response_header(0, "X-Mine", {value!r})'
    with served(package(tmp_path, ANSWER.format(lines))) as app:
        response = await post(app, b"abc")
    assert response.status_code == 500
    assert "Not a header" in response.text
    assert "b" not in response.headers


async def test_what_was_set_before_a_failure_is_sent_with_it(tmp_path: Path) -> None:
    lines = 'context.set_response_header(0, "X-Mine", "a"); context.set_response_status(201); 1 / 0'
    with served(package(tmp_path, ANSWER.format(lines))) as app:
        response = await post(app)
    assert (response.status_code, response.headers["x-mine"]) == (500, "a")
    assert response.text.startswith("division by zero\nTraceback")


COUNT = f"""
{LOAD}
def transform_fn(model, data, content_type, accept, context):
    metrics = context.metrics
    metrics.add_counter("Seen", 1)
    metrics.add_counter("Seen", 2, idx=0)
    metrics.add_time("Took", 1.5, unit="s")
    metrics.add_size("Size", 3, None, "kB")
    metrics.add_percent("Share", 50)
    metrics.add_error("Odd", "a reason")
    metrics.add_metric("Mms", 1, unit="count")
    metrics.add_metric("TorchServe", 2, "count")
    metrics.add_metric_to_cache("Later", "ms", ["ModelName"]).add_or_update(4, ["mine"])
    assert metrics.get_metric("Later").value == 4
    return str(len(metrics.store))
"""


async def test_metrics_are_counted_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "deployments.sagemaker.toolkit_metrics")
    with served(package(tmp_path, COUNT)) as app:
        response = await post(app)
    assert response.text == "8"
    # mms/metrics/metric.py, Metric.__str__
    lines = [message.partition("|#hostname")[0] for message in caplog.messages]
    model = "|#ModelName:model,Level:Model"
    assert lines == [
        f"[METRICS]Seen.Count:3{model}",
        f"[METRICS]Took.Seconds:1.5{model}",
        f"[METRICS]Size.Kilobytes:3{model}",
        f"[METRICS]Share.Percent:50{model}",
        "[METRICS]Odd.:a reason|#Level:Error",
        f"[METRICS]Mms.Count:1{model}",
        f"[METRICS]TorchServe.Count:2{model}",
        "[METRICS]Later.Milliseconds:4|#ModelName:mine",
    ]


DESCRIBE = """
import json

def model_fn(model_dir, context):
    assert context.request_processor is None and context.get_request_id() is None
    context.set_response_status(500)
    context.metrics.add_counter("Loaded", 1)
    return context.system_properties["model_dir"] == model_dir

def transform_fn(model, data, content_type, accept, context):
    assert context.get_sequence_id(0) is None
    return json.dumps([model, context.model_name, sorted(context.system_properties),
                       context.system_properties["batch_size"], context.manifest["model"],
                       len(context.get_request_id()), len(context.request_processor)])
"""


async def test_the_context_describes_model_and_server(tmp_path: Path) -> None:
    directory = package(tmp_path, DESCRIBE)
    known = ["batch_size", "gpu_id", "limit_max_image_pixels", "model_dir", "server_name"]
    with served(directory) as app:
        told = (await post(app)).json()
    assert told[:4] == [True, "model", [*known, "server_version"], 1]
    assert told[4]["modelName"] == "model"
    assert told[5:] == [36, 1]
    (directory / "MAR-INF").mkdir()
    manifest = {"model": {"modelName": "mine", "handler": "service:handle"}}
    (directory / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    with served(directory) as app:
        assert (await post(app)).json()[4] == manifest["model"]


IMAGE = b"\x89PNG\r\n\x1a\n\0\xff"


@pytest.mark.parametrize("place", PLACES)
async def test_the_field_body_of_a_form_is_what_the_code_gets(tmp_path: Path, place: str) -> None:
    """As sagemaker-inference 1.10.1 with multi-model-server 1.1.11: the field's data, and the
    content type of the whole."""
    with served(package(tmp_path, TELL)) as app:
        response = await call(
            app,
            "POST",
            place,
            files={"other": b"x", "body": ("a.png", IMAGE, "image/png")},
        )
        urlencoded = await call(app, "POST", place, data={"body": "[1]"})
        missing = await call(app, "POST", place, files={"data": IMAGE})
        curls = await call(app, "POST", place, data={"[1,2]": ""})
    told = response.json()
    assert told["body"].encode("latin-1") == IMAGE
    assert told["content_type"].startswith("multipart/form-data; boundary=")
    assert urlencoded.json()["body"] == "[1]"
    for refused in (missing, curls):
        assert refused.status_code in (400, 424)
        assert "The form has no field `body`" in refused.text
    assert "Content-Type: curl" in curls.text


async def test_files_that_are_uploaded_are_requests_of_their_own(tmp_path: Path) -> None:
    with served(package(tmp_path, TELL)) as app:
        one = await call(app, "POST", "/", files={"image": ("a.png", IMAGE, "image/png")})
        two = await call(
            app, "POST", "/", files=[("images", ("a.png", IMAGE, "image/png")), ("images", b"x")]
        )
    (told,) = one.json()["output"]
    assert (told["body"].encode("latin-1"), told["content_type"]) == (IMAGE, "image/png")
    assert [each["content_type"] for each in two.json()["output"]] == [
        "image/png",
        "application/octet-stream",
    ]


STATUS = f"""
{LOAD}
def transform_fn(model, data, content_type, accept, context):
    if context.get_request_header(0, "x-raise"):
        class BaseInferenceToolkitError(Exception):
            status_code = int(data)
        raise BaseInferenceToolkitError("no")
    context.set_response_status(int(data))
    return "[1]"
"""


@pytest.mark.parametrize("headers", [{}, {"x_raise": "1"}], ids=["set", "raised"])
async def test_a_status_that_ends_no_exchange_is_the_codes_error(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    """After 1xx a client waits for another one; beyond 599 HTTP has none (RFC 9110, section 15)."""
    with served(package(tmp_path, STATUS)) as app:
        for status in ("100", "101", "103", "199", "0", "-1", "600", "1000"):
            response = await post(app, status, **headers)
            assert response.status_code == 500
            assert f"expected 200 to 599, got {status}" in response.text
        assert (await post(app, "599", **headers)).status_code == 599


def test_an_answer_without_a_body_leaves_none_to_the_next(tmp_path: Path) -> None:
    """RFC 9110, sections 15.3.5, 15.3.6 and 15.4.5; and 8.6 for the length."""
    directory = Directory()
    with (
        served(package(tmp_path, STATUS)) as app,
        serving(mount(app, "/m")) as port,
        serving(Gateway(GatewaySettings(), directory)) as gateway_port,
    ):
        directory.update([ServedModel("m", "/m", (Address("127.0.0.1", port),))])
        for start in (f"http://127.0.0.1:{port}/m", f"http://127.0.0.1:{gateway_port}"):
            with httpx.Client(base_url=start, headers={"content-type": "application/json"}) as one:
                for status, length in ((204, None), (205, "0"), (304, None)):
                    empty = one.post("/invocations", content=str(status))
                    assert (empty.status_code, empty.content) == (status, b"")
                    assert empty.headers.get("content-length") == length
                    assert "transfer-encoding" not in empty.headers
                    following = one.post("/invocations", content="200")
                    assert (following.status_code, following.text) == (200, "[1]")
