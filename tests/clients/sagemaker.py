"""What boto3 does with an endpoint, and what a multi-model endpoint's platform does with a
container.

`url` is where the paths begin: at the model, or at a gateway.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from botocore.config import Config
from botocore.exceptions import ClientError

TIMEOUT_S = 60
ATTRIBUTES = "trace-id=1a2b, note=of the client"


def create_client(service: str, url: str) -> Any:
    """Return a boto3 client that asks once; the signature is of nobody."""
    return boto3.client(
        service,
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="nobody",
        aws_secret_access_key="nothing",
        config=Config(retries={"total_max_attempts": 1}, read_timeout=TIMEOUT_S),
    )


def invoke(url: str, model: str, body: bytes, **fields: Any) -> bytes:
    """Return an answer of InvokeEndpoint."""
    runtime = create_client("sagemaker-runtime", url)
    answer = runtime.invoke_endpoint(EndpointName=model, Body=body, **fields)
    content: bytes = answer["Body"].read()
    return content


def check_invocations(url: str, model: str, body: bytes, content_type: str) -> None:
    """A body has one answer, at once and as a stream, and headers come back as boto3 knows them."""
    runtime = create_client("sagemaker-runtime", url)
    fields = {
        "EndpointName": model,
        "Body": body,
        "ContentType": content_type,
        "Accept": "application/json",
        "CustomAttributes": ATTRIBUTES,
        "TargetVariant": "blue",
    }
    answer = runtime.invoke_endpoint(**fields, TargetModel=f"{model}.tar.gz")
    content = answer["Body"].read()
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert answer["ResponseMetadata"]["RequestId"]
    assert answer["ContentType"] == "application/json"
    assert answer["InvokedProductionVariant"] == "blue"
    assert answer["CustomAttributes"] == ATTRIBUTES
    stream = runtime.invoke_endpoint_with_response_stream(**fields)
    assert stream["ContentType"] == "application/json"
    assert stream["InvokedProductionVariant"] == "blue"
    assert stream["CustomAttributes"] == ATTRIBUTES
    parts = [event["PayloadPart"]["Bytes"] for event in stream["Body"]]
    assert b"".join(parts) == content
    plain = runtime.invoke_endpoint(EndpointName=model, Body=body)
    assert plain["InvokedProductionVariant"] == "AllTraffic"
    assert "CustomAttributes" not in plain


def check_errors(url: str, model: str, body: bytes, content_type: str) -> None:
    """What is refused is a ValidationError, what the container refuses a ModelError."""
    runtime = create_client("sagemaker-runtime", url)
    given = {"EndpointName": model, "Body": body, "ContentType": content_type}
    for name in ("invoke_endpoint", "invoke_endpoint_with_response_stream"):
        operation = getattr(runtime, name)
        with pytest.raises(runtime.exceptions.ModelError) as caught:
            operation(**given | {"ContentType": "application/no-such"})
        error = caught.value.response
        assert error["ResponseMetadata"]["HTTPStatusCode"] == 424
        assert error["OriginalStatusCode"] == 415
        assert "Unsupported Content-Type" in error["OriginalMessage"]
        assert error["Error"]["Message"].startswith(
            'Received client error (415) from model with message "{"error":'
        )
        assert "LogStreamArn" in error
        with pytest.raises(ClientError) as caught:
            operation(**given, TargetVariant="not a variant")
        assert caught.value.response["Error"]["Code"] == "ValidationError"
    with pytest.raises(ClientError, match=r"ValidationError.* TargetModel .*'no-such.tar.gz'"):
        runtime.invoke_endpoint(**given, TargetModel="no-such.tar.gz")


def check_unknown_endpoint(url: str) -> None:
    """An endpoint that is not there is told as AWS does."""
    runtime = create_client("sagemaker-runtime", url)
    with pytest.raises(ClientError) as caught:
        runtime.invoke_endpoint(EndpointName="no-such", Body=b"")
    assert caught.value.response["Error"]["Code"] == "ValidationError"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def check_control_plane(url: str, model: str) -> None:
    """What `RealTimePredictor` of the SDK's 1.x asks before predicting, and what `delete_endpoint`
    calls: the endpoint is there afterwards."""
    control = create_client("sagemaker", url)
    for _ in range(2):
        endpoint = control.describe_endpoint(EndpointName=model)
        assert endpoint["EndpointName"] == model
        assert endpoint["EndpointStatus"] == "InService"
        assert endpoint["EndpointArn"].endswith(f":endpoint/{model}")
        assert abs(endpoint["CreationTime"].timestamp() - time.time()) < 86_400
        name = endpoint["EndpointConfigName"]
        config = control.describe_endpoint_config(EndpointConfigName=name)
        (variant,) = config["ProductionVariants"]
        assert (variant["VariantName"], variant["ModelName"]) == ("AllTraffic", model)
        control.get_waiter("endpoint_in_service").wait(EndpointName=model)
        control.delete_endpoint_config(EndpointConfigName=name)
        control.delete_endpoint(EndpointName=model)


def check_unknown_endpoint_of_the_control_plane(url: str) -> None:
    """The SDK goes by the code and these words."""
    control = create_client("sagemaker", url)
    with pytest.raises(ClientError, match='Could not find endpoint "no-such"') as caught:
        control.describe_endpoint(EndpointName="no-such")
    assert caught.value.response["Error"]["Code"] == "ValidationException"


def check_unknown_operation(url: str) -> None:
    """What is not answered is told as AWS does."""
    control = create_client("sagemaker", url)
    with pytest.raises(ClientError) as caught:
        control.list_endpoints()
    assert caught.value.response["Error"]["Code"] == "UnknownOperationException"
    assert "SageMaker.DescribeEndpoint" in caught.value.response["Error"]["Message"]
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def read_when_there(location: str) -> bytes:
    """Return the content of a file, when it is there."""
    path = Path(location.removeprefix("file://"))
    until = time.monotonic() + TIMEOUT_S
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not come"
        time.sleep(0.02)
    return path.read_bytes()


def check_async(url: str, model: str, body: bytes, content_type: str, folder: Path) -> None:
    """A file's answer, and a body's that comes along, is the one that is given at once.

    Args:
        folder: from where the endpoint may read; its results go to a directory as well.
    """
    expected = invoke(url, model, body, ContentType=content_type, Accept="application/json")
    (folder / "input").write_bytes(body)
    runtime = create_client("sagemaker-runtime", url)
    fields = {"EndpointName": model, "ContentType": content_type, "Accept": "application/json"}
    accepted = runtime.invoke_endpoint_async(
        **fields, InputLocation=f"file://{folder}/input", InferenceId="first"
    )
    assert accepted["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert accepted["InferenceId"] == "first"
    assert read_when_there(accepted["OutputLocation"]) == expected
    assert not Path(accepted["FailureLocation"].removeprefix("file://")).exists()
    named = runtime.invoke_endpoint_async(
        **fields, InputLocation=f"{folder}/input", S3OutputPathExtension="a/b", Filename="c.json"
    )
    assert named["OutputLocation"].endswith("/a/b/c.json")
    assert named["InferenceId"] not in ("", "first")
    assert read_when_there(named["OutputLocation"]) == expected
    failing = runtime.invoke_endpoint_async(**fields, InputLocation=f"{folder}/no-such")
    assert b"No such file or directory" in read_when_there(failing["FailureLocation"])
    with pytest.raises(ClientError, match=r"\(ValidationError\).*InputLocation is nowhere from"):
        runtime.invoke_endpoint_async(**fields, InputLocation="s3://no-such/input")


def check_container(url: str, model: str, body: bytes, content_type: str) -> None:
    """A platform's round: the model under a name of the platform's own, called, and taken back.

    For one replica: names live in the replica that was told.
    """
    headers = {"Content-Type": content_type, "Accept": "application/json"}
    assert requests.get(f"{url}/ping", timeout=TIMEOUT_S).status_code == 200
    expected = post(f"{url}/invocations", body, headers)
    assert expected.status_code == 200, expected.text
    own = requests.get(f"{url}/models/{model}", timeout=TIMEOUT_S).json()
    name = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
    registration = {"model_name": name, "url": own["modelUrl"]}
    loaded = requests.post(f"{url}/models", json=registration, timeout=TIMEOUT_S)
    assert loaded.status_code == 200, loaded.text
    assert requests.post(f"{url}/models", json=registration, timeout=TIMEOUT_S).status_code == 409
    listed = requests.get(f"{url}/models", timeout=TIMEOUT_S).json()["models"]
    assert {"modelName": name, "modelUrl": own["modelUrl"]} in listed
    target = headers | {"X-Amzn-SageMaker-Target-Model": "any.tar.gz"}
    assert post(f"{url}/models/{name}/invoke", body, target).json() == expected.json()
    assert requests.delete(f"{url}/models/{name}", timeout=TIMEOUT_S).status_code == 200
    assert requests.delete(f"{url}/models/{name}", timeout=TIMEOUT_S).status_code == 404
    assert post(f"{url}/models/{name}/invoke", body, headers).status_code == 404


def post(url: str, body: bytes, headers: dict[str, str]) -> requests.Response:
    return requests.post(url, data=body, headers=headers, timeout=TIMEOUT_S)
