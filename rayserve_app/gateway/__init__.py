"""The gateway: un-prefixed paths, forwarded to the replicas of the model that they name."""
