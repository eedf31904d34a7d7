"""What every replica of a model is: its Serve application, its metrics and its logs."""
