"""What `tritonclient` does, over HTTP, blocking and with asyncio: any server of Triton's protocol.

The functions take the URL where the server's paths begin, and a name: of a model of encoded images.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import requests
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

TIMEOUT_S = 60


def without_scheme(url: str) -> str:
    return url.removeprefix("http://")


def images_input(name: str, images: Sequence[bytes]) -> Any:
    """Return the BYTES tensor of images, (N, 1)."""
    tensor = triton.InferInput(name, [len(images), 1], "BYTES")
    tensor.set_data_from_numpy(np.array(images, dtype=object).reshape(-1, 1))
    return tensor


def check_server(url: str, model: str) -> None:
    """The server is live and ready, and describes itself, the model and its repository."""
    with triton.InferenceServerClient(without_scheme(url)) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(model)
        assert not client.is_model_ready("no-such")
        assert not client.is_model_ready(model, "no-such")
        assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
        metadata = client.get_model_metadata(model)
        assert metadata["name"] == model
        (version, *_) = metadata["versions"]
        assert client.is_model_ready(model, version)
        assert client.get_model_metadata(model, version) == metadata
        (tensor,) = metadata["inputs"]
        assert (tensor["datatype"], tensor["shape"]) == ("BYTES", [-1, 1])
        config = client.get_model_config(model)
        assert config["max_batch_size"] > 0
        assert [each["name"] for each in config["input"]] == [tensor["name"]]
        index = client.get_model_repository_index()
        assert {"name": model, "version": version, "state": "READY", "reason": ""} in index
        with pytest.raises(InferenceServerException, match="unknown model: 'no-such' is not found"):
            client.get_model_metadata("no-such")


def check_images(url: str, model: str, images: Sequence[bytes], outputs: dict[str, Any]) -> None:
    """Images have the same outputs in binary, compressed either way, and of one output alone.

    Args:
        outputs: the arrays that the model answers for the images.
    """
    with triton.InferenceServerClient(without_scheme(url), network_timeout=TIMEOUT_S) as client:
        name = client.get_model_metadata(model)["inputs"][0]["name"]
        tensors = [images_input(name, images)]
        for options in (
            {},
            {"request_compression_algorithm": "gzip", "response_compression_algorithm": "gzip"},
            {
                "request_compression_algorithm": "deflate",
                "response_compression_algorithm": "deflate",
            },
            {"request_id": "7", "priority": 1, "timeout": 1_000_000, "sequence_id": 3},
        ):
            result = client.infer(model, tensors, **options)
            check_result(result, outputs)
        assert result.get_response()["id"] == "7"
        assert result.get_response()["model_name"] == model
        version = result.get_response()["model_version"]
        check_result(client.infer(model, tensors, model_version=version), outputs)
        name, expected = next(iter(outputs.items()))
        for is_binary in (True, False):
            requested = triton.InferRequestedOutput(name, binary_data=is_binary)
            result = client.infer(model, tensors, outputs=[requested])
            check_result(result, {name: expected})
            assert [each["name"] for each in result.get_response()["outputs"]] == [name]
        pending = [client.async_infer(model, tensors) for _ in range(3)]
        for each in pending:
            check_result(each.get_result(), outputs)


def check_result(result: Any, outputs: dict[str, Any]) -> None:
    for name, expected in outputs.items():
        np.testing.assert_allclose(result.as_numpy(name), expected, rtol=1e-5)


def check_pixels(url: str, model: str, pixels: Any, outputs: dict[str, Any]) -> None:
    """Decoded images, (N, H, W, 3) uint8 RGB, have these outputs, in binary and in JSON."""
    with triton.InferenceServerClient(without_scheme(url), network_timeout=TIMEOUT_S) as client:
        name = client.get_model_metadata(model)["inputs"][0]["name"]
        tensor = triton.InferInput(name, list(pixels.shape), "UINT8")
        for is_binary in (True, False):
            tensor.set_data_from_numpy(pixels, binary_data=is_binary)
            check_result(client.infer(model, [tensor]), outputs)


def check_classes(url: str, model: str, image: bytes, output: str, scores: Any) -> None:
    """The best three of an output's scores, (K,), come as `value:index`."""
    best = np.argsort(-np.asarray(scores), kind="stable")[:3]
    with triton.InferenceServerClient(without_scheme(url), network_timeout=TIMEOUT_S) as client:
        name = client.get_model_metadata(model)["inputs"][0]["name"]
        for is_binary in (True, False):
            requested = triton.InferRequestedOutput(output, binary_data=is_binary, class_count=3)
            result = client.infer(model, [images_input(name, [image])], outputs=[requested])
            (found,) = result.as_numpy(output)
            texts = [each.decode() if is_binary else each for each in found.tolist()]
            assert [int(text.split(":")[1]) for text in texts] == best.tolist()
            values = [float(text.split(":")[0]) for text in texts]
            np.testing.assert_allclose(values, np.asarray(scores)[best], atol=2e-6)


def check_raw(url: str, model: str, image: bytes, outputs: dict[str, Any]) -> None:
    """A body that is nothing but an image has a binary answer, which Triton's client can read."""
    response = requests.post(
        f"{url}/v2/models/{model}/infer",
        data=image,
        headers={"Inference-Header-Content-Length": "0", "Accept-Encoding": "identity"},
        timeout=TIMEOUT_S,
    )
    assert response.status_code == 200
    result = triton.InferenceServerClient.parse_response_body(
        response.content, header_length=int(response.headers["Inference-Header-Content-Length"])
    )
    check_result(result, outputs)


def check_errors(url: str, model: str, image: bytes) -> None:
    """Faults are told in Triton's words, with its statuses."""
    with triton.InferenceServerClient(without_scheme(url), network_timeout=TIMEOUT_S) as client:
        name = client.get_model_metadata(model)["inputs"][0]["name"]
        tensors = [images_input(name, [image])]
        for status, sentence, call in (
            ("404", "is not found", lambda: client.infer("no-such", tensors)),
            ("404", "version 99 is not found", lambda: client.infer(model, tensors, "99")),
            (
                "400",
                "unexpected inference output 'DUMMY' for model",
                lambda: client.infer(
                    model, tensors, outputs=[triton.InferRequestedOutput("DUMMY")]
                ),
            ),
            ("400", "not an image", lambda: client.infer(model, [images_input(name, [b"x"])])),
            ("400", "shared memory", client.get_system_shared_memory_status),
            ("400", "tracing", client.get_trace_settings),
            ("400", "logging", client.get_log_settings),
        ):
            with pytest.raises(InferenceServerException, match=sentence) as caught:
                call()
            assert caught.value.status() == status


def check_statistics(url: str, model: str, image: bytes) -> None:
    """A request of two images is one request and two inferences."""
    with triton.InferenceServerClient(without_scheme(url), network_timeout=TIMEOUT_S) as client:
        name = client.get_model_metadata(model)["inputs"][0]["name"]
        before = client.get_inference_statistics(model)["model_stats"][0]
        client.infer(model, [images_input(name, [image, image])])
        (after, *_) = client.get_inference_statistics(model)["model_stats"]
        assert after["inference_count"] == before["inference_count"] + 2
        assert after["last_inference"] >= before["last_inference"]
        for part in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
            old, new = before["inference_stats"][part], after["inference_stats"][part]
            assert new["count"] == old["count"] + 1
            assert new["ns"] >= old["ns"]
        assert client.get_inference_statistics()["model_stats"]


def check_control(url: str, model: str, *, is_explicit: bool) -> None:
    """A loaded model can be loaded; it is unloaded only where control is explicit."""
    with triton.InferenceServerClient(without_scheme(url), network_timeout=TIMEOUT_S) as client:
        client.load_model(model)
        with pytest.raises(InferenceServerException, match="as its application declares it"):
            client.load_model(model, config="{}")
        if not is_explicit:
            with pytest.raises(InferenceServerException, match="unload is not allowed"):
                client.unload_model(model)
        else:
            client.unload_model(model)
            assert not client.is_model_ready(model)
            (entry,) = client.get_model_repository_index()
            assert (entry["state"], entry["reason"]) == ("UNAVAILABLE", "unloaded")
            client.load_model(model)
        assert client.is_model_ready(model)


def check_asyncio(url: str, model: str, images: Sequence[bytes], outputs: dict[str, Any]) -> None:
    """The client of `tritonclient.http.aio` gets the same answers, several at once."""

    async def check() -> None:
        async with triton_aio.InferenceServerClient(without_scheme(url)) as client:
            assert await client.is_server_ready()
            metadata = await client.get_model_metadata(model)
            tensors = [images_input(metadata["inputs"][0]["name"], images)]
            for options in ({}, {"request_compression_algorithm": "gzip"}):
                calls = [client.infer(model, tensors, **options) for _ in range(4)]
                for result in await asyncio.gather(*calls):
                    check_result(result, outputs)
            statistics = await client.get_inference_statistics(model)
            assert statistics["model_stats"][0]["inference_count"] >= 8 * len(images)

    asyncio.run(check())


def check_kserve(url: str, model: str) -> None:
    """KServe's `InferenceRESTClient` reads these keys of bodies that must be JSON."""
    for path, key in (
        ("health/live", "live"),
        ("health/ready", "ready"),
        (f"models/{model}/ready", "ready"),
    ):
        response = requests.get(f"{url}/v2/{path}", timeout=TIMEOUT_S)
        assert response.status_code == 200
        assert response.json()[key] is True
