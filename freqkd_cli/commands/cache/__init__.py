"""Inspect and check teacher caches."""
