"""Drawer: one file is one data set; it offers ``build(...)`` and ``classes(...)``."""
