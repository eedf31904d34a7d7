"""MXNet: `import_path: deployments.mxnet:build`."""

from deployments.mxnet.backend import build

__all__ = ["build"]
