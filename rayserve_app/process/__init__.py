"""The process: threads, cores, memory, and the log of failures."""
