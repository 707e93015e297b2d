"""Drawer: one file is one model; it offers ``build(...)`` and ``taps(...)`` with the same keywords."""
