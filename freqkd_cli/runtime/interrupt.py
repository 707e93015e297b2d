"""Ctrl-C and termination as a request: work reaches a safe place, saves, and ends with exit code 75."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """A list that holds the signal once SIGINT or SIGTERM came; a second Ctrl-C ends at once."""
    asked: list[int] = []

    def note(number: int, _frame: object) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: the caller handles signals
        yield asked
        return
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
