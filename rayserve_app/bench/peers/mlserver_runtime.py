"""MLServer's runtimes for the two jobs; settings.json and model-settings.json, which
rayserve_app/bench/peer_subjects.py writes, name them.

`predict` is its model API: the Open Inference Protocol, over REST as JSON, so that an image comes
as base64. A custom handler, as MLServer's own runtimes have some, takes the body as it comes; in
the server's process it is a route of FastAPI: no protocol, no batching, no worker.
"""

import time
from io import BytesIO

import numpy as np
from fastapi import Request, Response
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.handlers import custom_handler
from mlserver.types import InferenceRequest, InferenceResponse
from PIL import Image


class ImageSize(MLModel):
    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        images = Base64Codec.decode_input(payload.inputs[0])
        sizes = np.array([Image.open(BytesIO(image)).size for image in images])
        output = NumpyCodec.encode_output("sizes", sizes)
        return InferenceResponse(model_name=self.name, outputs=[output])

    @custom_handler(rest_path="/size")
    async def size(self, request: Request) -> Response:
        width, height = Image.open(BytesIO(await request.body())).size
        return Response(f"[{width},{height}]", media_type="application/json")


class Sleep(MLModel):
    """50 ms per batch; answers the batch's size."""

    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        inputs = NumpyCodec.decode_input(payload.inputs[0])
        time.sleep(0.05)  # in a worker of its own, which runs one batch at a time
        sizes = np.full((len(inputs), 1), len(inputs))
        output = NumpyCodec.encode_output("sizes", sizes)
        return InferenceResponse(model_name=self.name, outputs=[output])
