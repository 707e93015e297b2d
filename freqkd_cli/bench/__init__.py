"""Measure the cost of a training step and what bounds it: `freqkd bench`."""
