"""Workroom: what is counted in a split, and the scores that are made of it."""
