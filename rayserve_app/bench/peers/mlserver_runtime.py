"""MLServer's runtimes for the jobs; settings.json and model-settings.json, which
rayserve_app/bench/peer_servers.py writes, name them.

`predict` is its model API: the Open Inference Protocol, over REST as JSON, so that an image comes
as base64, and an .npy goes as such.
"""

import time
from typing import Any

import numpy as np
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from rayserve_app.bench.models import BATCH_S
from rayserve_app.bench.peers import jobs


class Runtime(MLModel):
    """A model of the requests' first tensor, which holds an image for each one of the batch."""

    async def load(self) -> bool:
        self.setup()
        return True

    def setup(self) -> None:
        pass

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        output = self.compute(payload.inputs[0])
        return InferenceResponse(model_name=self.name, outputs=[output])

    def compute(self, tensor: Any) -> Any:
        answers = [self.answer(image) for image in Base64Codec.decode_input(tensor)]
        return NumpyCodec.encode_output("output", np.array(answers))

    def answer(self, image: bytes) -> Any:
        raise NotImplementedError


class ImageSize(Runtime):
    def answer(self, image: bytes) -> Any:
        return jobs.image_size(image)


class Colors(Runtime):
    def answer(self, image: bytes) -> Any:
        return jobs.corner_color(image)


class Texture(Runtime):
    def answer(self, image: bytes) -> Any:
        return jobs.texture(image)


class Sleep(Runtime):
    """50 ms per batch; answers the batch's size."""

    def compute(self, tensor: Any) -> Any:
        inputs = NumpyCodec.decode_input(tensor)
        time.sleep(BATCH_S)  # in a worker of its own, which runs one batch at a time
        return NumpyCodec.encode_output("output", np.full((len(inputs), 1), len(inputs)))


class Network(Runtime):
    def setup(self) -> None:
        self._network = jobs.Network(threads=1)

    def compute(self, tensor: Any) -> Any:
        answers = self._network.predict_jpegs(Base64Codec.decode_input(tensor))
        return NumpyCodec.encode_output("output", answers)


class Heads(Runtime):
    def setup(self) -> None:
        self._heads = jobs.Heads()

    def compute(self, tensor: Any) -> Any:
        (stream,) = Base64Codec.decode_input(tensor)
        return Base64Codec.encode_output("output", [self._heads(stream)])
