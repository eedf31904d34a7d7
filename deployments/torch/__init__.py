"""PyTorch: `import_path: deployments.torch:build`."""

from deployments.torch.backend import build

__all__ = ["build"]
