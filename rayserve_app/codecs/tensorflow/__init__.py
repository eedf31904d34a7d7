"""TensorFlow Serving's JSON: requests, examples, tensors and replies."""
