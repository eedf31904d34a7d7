"""simple_tensorflow_serving's HTTP API: inference, models, generated clients, forms for browsers.

Source: tobegit3hub/simple_tensorflow_serving 0.8.2, commit 6aa1aad, server.py. `GET /`, its
dashboard, is the model's own page. The forms answer here: upstream's end with status 500, or wait
for themselves.
"""

from rayserve_app.protocols.simple_tensorflow_serving.service import SimpleTensorFlowServing

__all__ = ["SimpleTensorFlowServing"]
