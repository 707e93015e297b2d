"""Workroom: taps, the contract of a loss, adapters, and the teacher's half from a live teacher or from a cache."""
