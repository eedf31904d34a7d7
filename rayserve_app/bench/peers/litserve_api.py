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
    """A function of what is decoded, one by one; what makes it travels to the worker, so that it is
    one of this module, and is called there."""

    def __init__(self, make: Callable[[], Callable[[bytes], Any]], **options: Any) -> None:
        super().__init__(**options)
        self._make = make

    def setup(self, device: str) -> None:
        self._function = self._make()

    def predict(self, item: Any) -> Any:
        return self._function(item)

    def encode_response(self, output: Any) -> Any:
        return Response(output, media_type="application/x-npy") if type(output) is bytes else output


class Raw(Function):
    def decode_request(self, request: RawBody) -> Any:
        return request


class Base64Json(Function):
    """Takes `{"image": BASE64}`."""

    def decode_request(self, request: dict[str, str]) -> Any:
        return pybase64.b64decode(request["image"], validate=True)


class Sleep(Raw):
    """50 ms per batch; answers the batch's size."""

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        return inputs

    def predict(self, inputs: list[bytes]) -> list[int]:
        time.sleep(BATCH_S)
        return [len(inputs)] * len(inputs)

    def unbatch(self, output: list[int]) -> list[int]:
        return output


class Network(Function):
    def decode_request(self, request: RawBody) -> Any:
        return jobs.preprocess(request)

    def encode_response(self, output: Array) -> Any:
        return output.tolist()


def _size() -> Callable[[bytes], Any]:
    return jobs.image_size


def _color() -> Callable[[bytes], Any]:
    return jobs.corner_color


def _texture() -> Callable[[bytes], Any]:
    return jobs.texture


def _network() -> Callable[[Any], Any]:
    workers = int(sys.argv[3])
    return jobs.Network(max(1, available_cores() // workers)).predict


JOBS: Mapping[str, Callable[[], list[litserve.LitAPI]]] = {
    "ImageSize": lambda: [Raw(_size), Base64Json(_size, api_path="/base64")],
    # 10 ms did as well as 0 and 50 ms or better, at 400 and 600 requests per second.
    "Sleep": lambda: [Sleep(_size, max_batch_size=32, batch_timeout=0.01)],
    "Network": lambda: [Network(_network, max_batch_size=8, batch_timeout=0.01)],
    "Heads": lambda: [Raw(jobs.Heads)],
    "Colors": lambda: [Raw(_color)],
    "Neighbours": lambda: [Raw(_size, api_path="/fast"), Raw(_texture, api_path="/slow")],
}

if __name__ == "__main__":
    job, port, workers = sys.argv[1:]
    server = litserve.LitServer(
        JOBS[job](), accelerator="cpu", workers_per_device=int(workers), fast_queue=True
    )
    quiet = {"log_level": "warning", "access_log": False, "generate_client_file": False}
    server.run(host="127.0.0.1", port=int(port), **quiet)
