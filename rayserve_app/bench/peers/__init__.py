"""Programs that we measure ourselves against; no part of the server.

`by_hand` runs in our own Serve instance. The others run in environments that hold their server and
what its models need, not ours: `<name>.txt` pins each, `make bench-peers` makes it.
"""
