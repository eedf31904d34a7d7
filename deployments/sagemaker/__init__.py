"""SageMaker packages: `import_path: deployments.sagemaker:build`.

The rest of the room are SageMaker's containers as user code sees them: the inference toolkit, and
TensorFlow's.
"""

from deployments.sagemaker.backend import build

__all__ = ["build"]
