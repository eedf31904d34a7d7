"""The Open Inference Protocol v2 over HTTP, as KServe specifies it and Triton extends it.

Sources: kserve/open-inference-protocol, open_inference_rest.md; triton-inference-server/server,
docs/protocol and http_server.cc. Shared memory, tracing, logging and generation are left out.
"""

from rayserve_app.protocols.open_inference.service import OpenInference

__all__ = ["OpenInference"]
