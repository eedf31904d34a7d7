"""`rayserve-app bench`: this server's speed against its targets, on the machine at hand.

One Serve instance per run. What is compared is measured in turn, A B A B, so that whatever else
the machine does meets both; a ratio is the median over the rounds.

The load generator (load.py, saturation.py, steady_load.py) knows HTTP alone, and nothing of what
answers: it measures any endpoint.
"""
