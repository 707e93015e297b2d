"""Warnings and log lines: Python's logging, written to stderr.

Every file logs with ``logging.getLogger(__name__)``, and nothing else prints a warning.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable


class _Labelled(logging.Formatter):
    """Leaves messages unchanged; warnings and errors start with the name of their level."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return f"{record.levelname.lower()}: {text}" if record.levelno >= logging.WARNING else text


class _StandardError(logging.StreamHandler):
    """Writes to the current ``sys.stderr``, which tests and progress bars replace."""

    stream = property(lambda self: sys.stderr, lambda self, _: None)


def log_to_stderr(verbosity: int = 0) -> None:
    """Send the log to stderr: -2 errors, -1 also warnings, 0 also progress, 1 everything."""
    logger = logging.getLogger("freqkd_cli")
    for old in list(logger.handlers):
        logger.removeHandler(old)
    handler = _StandardError()
    handler.setFormatter(_Labelled("%(message)s"))
    logger.addHandler(handler)
    levels = (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)
    logger.setLevel(levels[max(-2, min(verbosity, 1)) + 2])
    # It warns about each home folder that it cannot write to, and about its font cache.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def warn(warnings: Iterable[str]) -> None:
    """Log each text as a warning."""
    for text in warnings:
        logging.getLogger("freqkd_cli").warning("%s", text)
