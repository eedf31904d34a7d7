"""Multi Model Server's inference API.

Source: awslabs/multi-model-server 706aa9c, InferenceRequestHandler.java (routes, inputs),
NettyUtils.java (headers, errors), OpenApiUtils.java. `/ping`, `/invocations` and `/models...` are
SageMaker's where both protocols are enabled and it stands first. Left out: custom endpoints, the
management API, and closing the connection after each error.
"""

from rayserve_app.protocols.multi_model_server.service import MultiModelServer

__all__ = ["MultiModelServer"]
