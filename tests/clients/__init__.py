"""What unmodified clients of the protocols do, against any server that has the model."""
