"""Asynchronous invocations: what is read, what is written, and what is refused."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rayserve_app.app import App, create_app
from rayserve_app.errors import InvalidRequest
from rayserve_app.inference.model import Model
from rayserve_app.protocols.sagemaker.asynchronous import output_names
from rayserve_app.types import Reply
from tests.protocols import call, create_model

PATH = "/endpoints/m/async-invocations"
PREFIX = "X-Amzn-SageMaker-"


def add(rows: Sequence[Any]) -> list[float]:
    return [float(row.sum()) for row in rows]


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Any]:
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    (tmp_path / "in" / "rows.json").write_bytes(b"[[1, 2], [3, 4]]")
    return {"async_input": [str(tmp_path / "in")], "async_output": str(tmp_path / "out")}


def create(places: dict[str, Any], function: Any = add, **options: Any) -> Model:
    values = {"input": {"type": "doubles"}, "protocol_settings": {"sagemaker": places}} | options
    return create_model(function, **values)


async def submit(app: App, body: bytes = b"", **fields: Any) -> Any:
    headers = {PREFIX + name.replace("_", "-"): str(value) for name, value in fields.items()}
    return await call(app, "POST", PATH, content=body, headers=headers)


async def when_there(location: str) -> bytes:
    path = Path(location.removeprefix("file://"))
    async with asyncio.timeout(20):
        while not path.exists():
            await asyncio.sleep(0.005)
    return path.read_bytes()


async def result(response: Any) -> bytes:
    assert response.status_code == 202, response.text
    return await when_there(response.headers["x-amzn-sagemaker-outputlocation"])


async def failure(response: Any) -> Any:
    assert response.status_code == 202, response.text
    return json.loads(await when_there(response.headers["x-amzn-sagemaker-failurelocation"]))


async def test_a_files_answer_is_written_as_it_would_be_given(places: dict[str, Any]) -> None:
    app = create_app(create(places))
    response = await submit(
        app, InputLocation=f"{places['async_input'][0]}/rows.json", Accept="text/csv"
    )
    assert list(response.json()) == ["InferenceId"]
    assert await result(response) == b"3.0\n7.0\n"


async def test_a_body_may_come_along(places: dict[str, Any]) -> None:
    app = create_app(create(places))
    response = await submit(app, b"1,2\n3,4", Content_Type="text/csv", Inference_Id="a b")
    assert response.json() == {"InferenceId": "a b"}
    assert await result(response) == b"[3.0,7.0]"


async def test_equal_ids_have_results_of_their_own(places: dict[str, Any]) -> None:
    app = create_app(create(places))
    responses = [await submit(app, b"[%d]" % number, Inference_Id="same") for number in range(3)]
    assert [await result(response) for response in responses] == [b"0.0", b"1.0", b"2.0"]


async def test_the_locations_are_where_the_client_asks_below_the_place(
    places: dict[str, Any],
) -> None:
    app = create_app(create(places))
    response = await submit(app, b"[1]", S3OutputPathExtension="/a/b/", Filename="c.json")
    place = f"file://{places['async_output']}/a/b"
    assert response.headers["x-amzn-sagemaker-outputlocation"] == f"{place}/c.json"
    assert response.headers["x-amzn-sagemaker-failurelocation"] == f"{place}/c.json-error.out"
    assert await result(response) == b"1.0"


@pytest.mark.parametrize(
    ("path_extension", "filename"),
    [
        *(
            (text, None)
            for text in ("..", "a/../b", "../a", "a//b", ".", "/", "s3:x", "a b", "", "a\\b")
        ),
        *((None, text) for text in ("..", ".a", "-a", "a/b", "a.b.c", "a" * 33, "", "/etc", "a\n")),
        ("a" * 513, None),
    ],
)
def test_names_outside_the_place_are_refused(
    path_extension: str | None, filename: str | None
) -> None:
    with pytest.raises(InvalidRequest):
        output_names(path_extension, filename)


@pytest.mark.parametrize(
    "location",
    [
        *("/etc/passwd", "file:///etc/passwd", "{in}/../out/x", "{in}/../../etc/passwd", "{in}"),
        *("{in}/", "{in}//rows.json", "{in}x/rows.json", "file:{in}/rows.json", "{in}/./rows.json"),
        *("file://host{in}/rows.json", "FILE://{in}/rows.json", "s3://bucket/{in}/rows.json"),
        *("http://169.254.169.254/latest/meta-data", "https://bucket.s3.amazonaws.com/a"),
        *(
            "simplecache::file://{in}/rows.json",
            "zip://a::{in}/rows.json",
            "local://{in}/rows.json",
        ),
        *("memory://a", "rows.json", "", "~/a", "{in}/a\\..\\b", "{in}/rows.json?x", "{in}/*"),
    ],
)
async def test_a_location_elsewhere_is_refused_at_once(
    places: dict[str, Any], location: str
) -> None:
    app = create_app(create(places))
    response = await submit(app, InputLocation=location.replace("{in}", places["async_input"][0]))
    assert response.status_code == 400
    assert response.headers["x-amzn-errortype"] == "ValidationError"
    assert list(Path(places["async_output"]).iterdir()) == []


async def test_a_link_out_of_the_place_is_not_followed(
    places: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(b"[1]")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "secret")
    app = create_app(create(places))
    told = await failure(await submit(app, InputLocation=f"{tmp_path}/in/link"))
    assert list(told) == ["Message"]
    assert "cannot be read" in told["Message"]


async def test_a_link_out_of_the_output_is_not_followed(
    places: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path / "elsewhere")
    app = create_app(create(places))
    response = await submit(app, b"[1]", S3OutputPathExtension="link")
    assert response.status_code == 202
    assert await result(await submit(app, b"[2]")) == b"2.0"
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    ("body", "fields", "said"),
    [
        (b"", {}, "Neither an InputLocation nor a Body"),
        (b"[1]", {"InputLocation": "{in}/rows.json"}, "Both a Body and an InputLocation"),
        (b"[" + b" " * 128_000, {}, "expected 1 to 128000 bytes, got 128001"),
        (b"[1]", {"RequestTTLSeconds": "59"}, "expected 60 to 21600, got '59'"),
        (b"[1]", {"RequestTTLSeconds": "21601"}, "expected 60 to 21600"),
        (b"[1]", {"RequestTTLSeconds": "1e3"}, "expected 60 to 21600"),
        (b"[1]", {"InvocationTimeoutSeconds": "0"}, "expected 1 to 3600"),
        (b"[1]", {"InvocationTimeoutSeconds": "-1"}, "expected 1 to 3600"),
        (b"[1]", {"Inference_Id": " "}, "X-Amzn-SageMaker-inference-id"),
        (b"[1]", {"Inference_Id": "a" * 65}, "X-Amzn-SageMaker-inference-id"),
        (b"[1]", {"S3OutputPathExtension": "../a"}, "Not a path of plain names"),
        (b"[1]", {"Filename": "../a"}, "Not a Filename"),
    ],
)
async def test_a_request_that_does_not_fit_is_a_validation_error(
    places: dict[str, Any], body: bytes, fields: dict[str, str], said: str
) -> None:
    app = create_app(create(places))
    given = {name: text.replace("{in}", places["async_input"][0]) for name, text in fields.items()}
    response = await submit(app, body, **given)
    assert response.status_code == 400
    assert response.headers["x-amzn-errortype"] == "ValidationError"
    assert said in response.json()["Message"]


async def test_an_endpoint_takes_none_unless_its_yaml_says_where_to() -> None:
    response = await submit(create_app(create({})), b"[1]")
    assert response.status_code == 400
    assert "`protocol_settings.sagemaker.async_output` is not set" in response.json()["Message"]


async def test_what_the_container_refuses_is_written_as_a_model_error(
    places: dict[str, Any],
) -> None:
    app = create_app(create(places))
    told = await failure(await submit(app, b"[1]", Content_Type="image/jpeg"))
    assert told["OriginalStatusCode"] == 415
    assert "Unsupported Content-Type" in told["OriginalMessage"]
    told = await failure(await submit(app, b"[1]", Custom_Attributes="tfs-model-version=9"))
    assert told["OriginalStatusCode"] == 404


async def test_what_user_code_says_but_success_is_a_failure(places: dict[str, Any]) -> None:
    model = create(
        places, lambda items: [Reply("no", None, 415)] * len(items), input={"type": "request"}
    )
    told = await failure(await submit(create_app(model), b"x"))
    assert (told["OriginalStatusCode"], told["OriginalMessage"]) == (415, "no")


async def test_a_file_that_is_missing_or_too_large_is_a_failure(places: dict[str, Any]) -> None:
    app = create_app(create(places, limits={"max_body_mb": 0.00001}))
    folder = places["async_input"][0]
    told = await failure(await submit(app, InputLocation=f"{folder}/no-such"))
    assert told == {"Message": f"`file://{folder}/no-such` cannot be read: got {NO_SUCH}"}
    told = await failure(await submit(app, InputLocation=f"file://{folder}/rows.json"))
    assert "is too large: expected at most 10 bytes" in told["Message"]


NO_SUCH = "No such file or directory"


async def test_a_result_that_cannot_be_written_is_a_failure(
    places: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "out" / "taken").mkdir()
    app = create_app(create(places))
    told = await failure(await submit(app, b"[1]", Filename="taken"))
    assert "The result cannot be written" in told["OriginalMessage"]


async def test_only_so_many_wait_and_so_many_run_at_a_time(places: dict[str, Any]) -> None:
    gate, running, most = threading.Event(), [0], [0]
    lock = threading.Lock()

    def wait(items: Sequence[Any]) -> list[int]:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        gate.wait(20)
        with lock:
            running[0] -= 1
        return [1] * len(items)

    model = create(
        places | {"async_max_pending": 5, "async_concurrency": 2},
        wait,
        input={"type": "string"},
        batching={"max_batch_size": 1, "max_concurrent_batches": 8},
        warm_up=False,
    )
    app = create_app(model)
    taken = [await submit(app, b"a") for _ in range(5)]
    refused = await submit(app, b"a")
    assert refused.status_code == 503
    assert refused.headers["x-amzn-errortype"] == "ServiceUnavailable"
    async with asyncio.timeout(20):
        while running[0] < 2:
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.05)
    gate.set()
    assert [await result(each) for each in taken] == [b"1"] * 5
    assert most == [2]
    assert await result(await submit(app, b"a")) == b"1"


async def test_it_waits_for_a_model_that_is_cold(places: dict[str, Any]) -> None:
    model = create(places, is_warm=False)
    response = await submit(create_app(model), b"[1]")
    await asyncio.sleep(0.02)
    assert list(Path(places["async_output"]).iterdir()) == []
    model.warm_up()
    assert await result(response) == b"1.0"


async def test_what_expires_before_its_turn_is_a_failure(
    places: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayserve_app.protocols.sagemaker.runtime.TTL_S", range(0, 21_601))
    gate = threading.Event()
    model = create(
        places | {"async_concurrency": 1},
        lambda items: [gate.wait(20)] * len(items),
        input={"type": "string"},
        warm_up=False,
    )
    app = create_app(model)
    first = await submit(app, b"a")
    await asyncio.sleep(0.02)
    told = await failure(await submit(app, b"b", RequestTTLSeconds=0))
    assert told == {"Message": "The request expired before its turn came"}
    gate.set()
    assert await result(first) == b"true"


async def test_an_invocation_that_takes_too_long_is_a_failure(places: dict[str, Any]) -> None:
    gate = threading.Event()
    model = create(
        places, lambda items: [gate.wait(20)] * len(items), input={"type": "string"}, warm_up=False
    )
    told = await failure(await submit(create_app(model), b"a", InvocationTimeoutSeconds=1))
    gate.set()
    assert told["OriginalStatusCode"] == 504
    assert "The invocation took over 1 s" in told["OriginalMessage"]
