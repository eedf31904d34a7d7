"""What operators do: check a YAML, make a manifest, run a server."""
