"""Drawer: one file is one loss; it offers ``build(...)``, and its keywords are the YAML keys."""
