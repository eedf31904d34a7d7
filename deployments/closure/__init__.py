"""Python functions: `import_path: deployments.closure:build`."""

from deployments.closure.backend import build

__all__ = ["build"]
