"""Taps, the contracts of a model and of a loss, adapters, and the graphs that losses share."""
