"""Weights that ship with the package, and reading the weights and configs of other programs."""
