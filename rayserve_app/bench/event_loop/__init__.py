"""How long requests of all kinds hold up a replica's event loop: the requests, and the probe."""
