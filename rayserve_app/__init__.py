"""Serve image models of several frameworks from one YAML file on Ray Serve."""

__version__ = "0.1.0"
