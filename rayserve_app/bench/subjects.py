"""The models that stand for their frameworks: two of `configs/app.yaml`, the others the bench's."""

from __future__ import annotations

from typing import Final, NamedTuple

from rayserve_app.bench import pictures
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Target


class Subject(NamedTuple):
    """An application, the framework that it stands for, and the size of its batches."""

    framework: str
    application: str
    batch_size: int
    needs_gpu: bool = False

    def target(self, instance: Instance, application: str | None = None) -> Target:
        """Return a request with one JPEG, for this application or one with the same model."""
        url = instance.url(f"/{application or self.application}/invocations")
        return Target.post(url, pictures.jpeg(pictures.SIDE), "image/jpeg")


CLOSURE: Final = Subject("closure", "texture", 8)
TENSORFLOW: Final = Subject("TensorFlow", "tensorflow-network", 8)
TORCH: Final = Subject("PyTorch", "torch-network", 8)
CUDA: Final = Subject("PyTorch on a GPU", "torch-network-cuda", 32, needs_gpu=True)
CUDA_FLOATS: Final = CUDA._replace(application="torch-network-cuda-floats")
"""The same, but images are normalised as they are decoded: four times the bytes go to the GPU."""
MXNET: Final = Subject("MXNet", "resnet-embedding", 8)
SAGEMAKER: Final = Subject("SageMaker package", "texture-package", 1)
YOLOV3: Final = Subject("TensorFlow, 5.5 MB per answer", "yolov3", 10)
"""Shows what carrying large answers costs."""
