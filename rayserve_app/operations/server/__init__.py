"""Serve in the foreground on one machine: checked, started, watched and stopped as a whole.

Ray runs as a child process and is never imported here.
"""
