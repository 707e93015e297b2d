"""Drawer: one file is one data set, with ``build(...)``, ``classes(...)`` and ``LAYOUT``."""
