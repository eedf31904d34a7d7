"""Programs that we measure ourselves against; no part of the server.

`minimal` and `bare` run in our own Serve instance. The others run in environments that hold their
server and nothing of ours: `<name>.txt` pins each, `make bench-peers` makes it.
"""
