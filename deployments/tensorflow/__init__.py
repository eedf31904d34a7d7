"""TensorFlow: `import_path: deployments.tensorflow:build`."""

from deployments.tensorflow.backend import build

__all__ = ["build"]
