"""Workroom: a View as data, how its key draws it, how it is applied, and batches of views."""
