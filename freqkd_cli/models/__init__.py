"""Drawer of models: each file offers ``build(...)`` and ``taps(...)`` with the same keywords."""
