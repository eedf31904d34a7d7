"""SageMaker's containers as user code sees them: the inference toolkit, and TensorFlow's."""
