"""Ray Serve applications, one module per kind, each with the `build` that YAML names."""
