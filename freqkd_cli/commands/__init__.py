"""Drawer: one file is one subcommand, a folder is a group; each offers ``run(...)``."""
