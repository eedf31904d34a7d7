"""Programs that we measure ourselves against; no part of the server."""
