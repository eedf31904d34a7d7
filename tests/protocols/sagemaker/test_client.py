"""boto3 and `requests` against a model behind a real uvicorn."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data as photographs

from tests.clients import sagemaker as client
from tests.protocols import create_model
from tests.protocols.servers import serving


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.fromarray(photographs.astronaut()).save(file, "JPEG")
    return file.getvalue()


def brightest(images: Sequence[Any]) -> list[int]:
    return [int(np.asarray(image).max()) for image in images]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("places")
    (folder / "in").mkdir()
    (folder / "out").mkdir()
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    places = {"async_input": [str(folder / "in")], "async_output": str(folder / "out")}
    model = create_model(
        brightest,
        input={"type": "image"},
        protocols=["sagemaker", "sagemaker_runtime"],
        protocol_settings={"sagemaker": places},
    )
    with serving(model) as url:
        yield url


def test_invocations(url: str) -> None:
    client.check_invocations(url, "m", jpeg(), "image/jpeg")
    brightness = int(np.asarray(Image.open(io.BytesIO(jpeg()))).max())
    assert client.invoke(url, "m", jpeg(), ContentType="image/jpeg") == b"%d" % brightness


def test_errors(url: str) -> None:
    client.check_errors(url, "m", jpeg(), "image/jpeg")
    client.check_unknown_endpoint(url)


def test_control_plane(url: str) -> None:
    client.check_control_plane(url, "m")
    client.check_unknown_operation(url)


def test_asynchronous_invocations(url: str, folder: Path) -> None:
    client.check_async(url, "m", jpeg(), "image/jpeg", folder / "in")


def test_the_container(url: str) -> None:
    client.check_container(url, "m", jpeg(), "image/jpeg")


def test_a_large_answer_comes_in_parts() -> None:
    model = create_model(
        lambda items: {"y": np.ones((len(items), 3_000_000), np.uint8)},
        input={"type": "string"},
        output={"codec": "npy"},
    )
    with serving(model) as url:
        runtime = client.create_client("sagemaker-runtime", url)
        stream = runtime.invoke_endpoint_with_response_stream(EndpointName="m", Body=b"x")
        assert stream["ContentType"] == "application/x-npy"
        parts = [event["PayloadPart"]["Bytes"] for event in stream["Body"]]
        assert len(parts) == 4
        np.testing.assert_array_equal(
            np.load(io.BytesIO(b"".join(parts))), np.ones(3_000_000, np.uint8)
        )


def test_user_code_that_fails_is_a_model_error_and_not_asked_again() -> None:
    asked: list[Any] = []

    def fail(items: Sequence[Any]) -> Any:
        asked.extend(items)
        raise RuntimeError("no")

    with serving(create_model(fail, input={"type": "string"}, warm_up=False)) as url:
        runtime = client.boto3.client(
            "sagemaker-runtime",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id="nobody",
            aws_secret_access_key="nothing",
        )
        with pytest.raises(runtime.exceptions.ModelError) as caught:
            runtime.invoke_endpoint(EndpointName="m", Body=b"x")
        assert caught.value.response["OriginalStatusCode"] == 500
        assert "RuntimeError: no" in caught.value.response["OriginalMessage"]
    assert asked == ["x"]


def test_asynchronous_invocations_with_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    """The input and the result lie in S3, as the real service has it."""
    moto = pytest.importorskip("moto.server")
    fsspec = pytest.importorskip("fsspec")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": endpoint})
    s3 = client.create_client("s3", endpoint)
    s3.create_bucket(Bucket="bucket")
    s3.put_object(Bucket="bucket", Key="in/a photo.jpg", Body=jpeg())
    s3.put_object(Bucket="bucket", Key="secret", Body=b"no image")
    places = {"async_input": ["s3://bucket/in/"], "async_output": "s3://bucket/out"}
    model = create_model(
        brightest, input={"type": "image"}, protocol_settings={"sagemaker": places}
    )
    try:
        with serving(model) as url:
            runtime = client.create_client("sagemaker-runtime", url)
            expected = client.invoke(url, "m", jpeg())
            accepted = runtime.invoke_endpoint_async(
                EndpointName="m", InputLocation="s3://bucket/in/a photo.jpg"
            )
            assert read_object(s3, accepted["OutputLocation"]) == (expected, "application/json")
            # What the SDK's AsyncPredictor hands to its deserializer is the object's ContentType.
            accepted = runtime.invoke_endpoint_async(
                EndpointName="m",
                InputLocation="s3://bucket/in/a photo.jpg",
                Accept="application/x-npy",
            )
            content, kind = read_object(s3, accepted["OutputLocation"])
            assert kind == "application/x-npy"
            assert np.load(io.BytesIO(content)).tolist() == json.loads(expected)
            failing = runtime.invoke_endpoint_async(
                EndpointName="m", InputLocation="s3://bucket/in/no-such"
            )
            content, kind = read_object(s3, failing["FailureLocation"])
            assert b"cannot be read: got no such file" in content
            assert kind == "application/json"
            with pytest.raises(client.ClientError, match="InputLocation is nowhere from where"):
                runtime.invoke_endpoint_async(EndpointName="m", InputLocation="s3://bucket/secret")
    finally:
        server.stop()


def read_object(s3: Any, location: str) -> tuple[bytes, str]:
    bucket, _, key = location.removeprefix("s3://").partition("/")
    s3.get_waiter("object_exists").wait(
        Bucket=bucket, Key=key, WaiterConfig={"Delay": 1, "MaxAttempts": 30}
    )
    found = s3.get_object(Bucket=bucket, Key=key)
    return found["Body"].read(), found["ContentType"]
