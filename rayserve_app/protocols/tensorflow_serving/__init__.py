"""TensorFlow Serving's REST API, for models of every framework.

Source: tensorflow/serving, http_rest_api_handler.cc and http_rest_api_util.cc (routes, sentences
of errors), g3doc/api_rest.md. `Content-Type` plays no part. Paths are as upstream writes them, not
in any case of letters; what is no path of the API is for other protocols.
"""

from rayserve_app.protocols.tensorflow_serving.service import TensorFlowServing

__all__ = ["TensorFlowServing"]
