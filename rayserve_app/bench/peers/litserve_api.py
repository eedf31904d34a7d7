"""LitServe's LitAPIs for the jobs: `python litserve_api.py JOB PORT WORKERS`.

As LitServer's documentation says for speed: as many workers as cores on a CPU, `fast_queue` above
100 requests per second, as many HTTP processes as workers (the default), logs at `warning`, no
client file. A parameter that FastAPI knows, `bytes` here, takes the body as it comes.
"""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import litserve
import pybase64
from fastapi import Body, Response

from rayserve_app.bench.models import BATCH_S
from rayserve_app.bench.peers import jobs
from rayserve_app.process.cores import available_cores
from rayserve_app.types import Array

RawBody = Annotated[bytes, Body()]


class Function(litserve.LitAPI):
    """A function of an image, one by one."""

    def __init__(self, function: Callable[[bytes], Any], **options: Any) -> None:
        super().__init__(**options)
        self._function = function

    def setup(self, device: str) -> None:
        pass

    def predict(self, image: bytes) -> Any:
        return self._function(image)

    def encode_response(self, output: Any) -> Any:
        return output


class RawImage(Function):
    def decode_request(self, request: RawBody) -> bytes:
        return request


class Base64Json(Function):
    """Takes `{"image": BASE64}`."""

    def decode_request(self, request: dict[str, str]) -> bytes:
        return pybase64.b64decode(request["image"], validate=True)


class Heads(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self._heads = jobs.Heads()

    def decode_request(self, request: RawBody) -> bytes:
        return request

    def predict(self, stream: bytes) -> bytes:
        return self._heads(stream)

    def encode_response(self, output: bytes) -> Response:
        return Response(output, media_type="application/x-npy")


class Sleep(litserve.LitAPI):
    """50 ms per batch; answers the batch's size."""

    def setup(self, device: str) -> None:
        pass

    def decode_request(self, request: RawBody) -> bytes:
        return request

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        return inputs

    def predict(self, inputs: list[bytes]) -> list[int]:
        time.sleep(BATCH_S)
        return [len(inputs)] * len(inputs)

    def unbatch(self, output: list[int]) -> list[int]:
        return output

    def encode_response(self, output: int) -> Any:
        return output


class Network(litserve.LitAPI):
    def __init__(self, threads: int, **options: Any) -> None:
        super().__init__(**options)
        self._threads = threads

    def setup(self, device: str) -> None:
        self._network = jobs.Network(self._threads)

    def decode_request(self, request: RawBody) -> Array:
        return jobs.preprocess(request)

    def predict(self, images: Array) -> Array:
        return self._network.predict(images)

    def encode_response(self, output: Array) -> Any:
        return output.tolist()


def _network(workers: int) -> list[litserve.LitAPI]:
    threads = max(1, available_cores() // workers)
    return [Network(threads, max_batch_size=8, batch_timeout=0.01)]


JOBS: Mapping[str, Callable[[int], list[litserve.LitAPI]]] = {
    "size": lambda _: [
        RawImage(jobs.image_size),
        Base64Json(jobs.image_size, api_path="/base64"),
    ],
    # 10 ms did as well as 0 and 50 ms or better, at 400 and 600 requests per second.
    "sleep": lambda _: [Sleep(max_batch_size=32, batch_timeout=0.01)],
    "network": _network,
    "heads": lambda _: [Heads()],
    "colors": lambda _: [RawImage(jobs.corner_color)],
    "neighbours": lambda _: [
        RawImage(jobs.image_size, api_path="/fast"),
        RawImage(jobs.texture, api_path="/slow"),
    ],
}


def main() -> None:
    job, port, workers = sys.argv[1:]
    server = litserve.LitServer(
        JOBS[job](int(workers)),
        accelerator="cpu",
        workers_per_device=int(workers),
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1",
        port=int(port),
        log_level="warning",
        access_log=False,
        generate_client_file=False,
    )


if __name__ == "__main__":
    main()
