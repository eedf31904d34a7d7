"""LitServe's LitAPI for the two jobs: `python litserve_api.py (size|sleep) PORT WORKERS`.

As LitServer's documentation says for speed: as many workers as cores on a CPU, `fast_queue` above
100 requests per second, as many HTTP processes as workers (the default), logs at `warning`, no
client file. A parameter that FastAPI knows, `bytes` here, takes the body as it comes.
"""

import sys
import time
from io import BytesIO
from typing import Annotated, Any

import litserve
from fastapi import Body
from PIL import Image

RawBody = Annotated[bytes, Body()]


class ImageSize(litserve.LitAPI):
    def setup(self, device: str) -> None:
        pass

    def decode_request(self, request: RawBody) -> Image.Image:
        return Image.open(BytesIO(request))

    def predict(self, image: Image.Image) -> tuple[int, int]:
        return image.size

    def encode_response(self, size: tuple[int, int]) -> Any:
        return size


class Sleep(litserve.LitAPI):
    """50 ms per batch; answers the batch's size."""

    def setup(self, device: str) -> None:
        pass

    def decode_request(self, request: RawBody) -> bytes:
        return request

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        return inputs

    def predict(self, inputs: list[bytes]) -> list[int]:
        time.sleep(0.05)
        return [len(inputs)] * len(inputs)

    def unbatch(self, output: list[int]) -> list[int]:
        return output

    def encode_response(self, output: int) -> Any:
        return output


def main() -> None:
    job, port, workers = sys.argv[1:]
    # 10 ms did as well as 0 and 50 ms or better, at 400 and 600 requests per second.
    api = ImageSize() if job == "size" else Sleep(max_batch_size=32, batch_timeout=0.01)
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=int(workers), fast_queue=True
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
