"""The one channel of warnings and log lines: Python's logging, written to standard error.

Any file logs with ``logging.getLogger(__name__)``; nothing else prints a warning.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable

LEVELS = (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)


class _LevelPrefix(logging.Formatter):
    """Formats warnings and errors with the name of their level in front, and others as they are."""

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
    handler.setFormatter(_LevelPrefix("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(LEVELS[max(-2, min(verbosity, 1)) + 2])
    # It warns about each home folder that it cannot write to, and about its font cache.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def warn(warnings: Iterable[str]) -> None:
    """Log each text as a warning."""
    for text in warnings:
        logging.getLogger("freqkd_cli").warning("%s", text)
