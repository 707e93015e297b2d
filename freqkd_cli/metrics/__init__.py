"""Metrics by file name: each file offers the numbers that `eval`, `compare` and the log report."""
