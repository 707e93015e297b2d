"""Standard streams that never end a command with a traceback: closed ones, narrow encodings,
readers that leave early."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO


def prepare() -> None:
    """Make the three standard streams usable, whatever the caller left of them.

    A stream that the caller closed (``>&-``) is opened on the null device, so that the next file
    that is opened does not take its number. Characters that the terminal's encoding lacks, and the
    bytes of a file name that is not UTF-8, are written as backslash escapes.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            _open_null(number, name)
        elif number and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _open_null(number: int, name: str) -> None:
    """Open the null device as ``sys.<name>``, on the stream's own number where that is free."""
    try:
        os.fstat(number)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number)
            os.close(null)
        os.set_inheritable(number, True)
    free = _is_null(number)
    stream = open(number if free else os.devnull, "w" if number else "r", closefd=not free)
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)


def _is_null(number: int) -> bool:
    return os.path.samestat(os.fstat(number), os.stat(os.devnull))


def drop_broken_output() -> None:
    """Send what standard output and error cannot deliver to the null device.

    Without this the interpreter tries again when it exits, complains, and ends with code 120.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _redirect_to_null(stream)


def _redirect_to_null(stream: TextIO) -> None:
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def print_error(text: str, *, original: bool = False) -> None:
    """Write a line to standard error; a stream that cannot take it is ignored.

    Args:
        original: write to the stream that the process started with, past any redirection.
    """
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.__stderr__ if original else sys.stderr, flush=True)
