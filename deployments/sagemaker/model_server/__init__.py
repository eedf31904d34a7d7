"""TensorFlow Serving's gRPC and REST on loopback, in front of a model of the same process."""
