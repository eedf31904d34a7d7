"""`rayserve-app bench`: this server's speed and memory against its targets, on the machine at hand.

One Serve instance per run. What is compared is measured in turn, A B A B, so that whatever else
the machine does meets both; a ratio is the median over the rounds.
"""
