"""Progress reporting. Long work calls this protocol, and ``report/progress_bars.py`` draws it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Receives progress; its output goes to stderr."""

    def note(self, text: str) -> None:
        """Print a line that stays."""

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """Start a bar of ``total`` units, of which ``done`` are complete."""

    def advance(self, done: int, text: str = "") -> None:
        """Set the number of complete units; ``text`` is shown beside the bar."""

    def end(self) -> None:
        """End the bar."""


@contextmanager
def bar(progress: Progress, what: str, total: int) -> Iterator[None]:
    """Show a bar of ``total`` units while the block runs; an error ends the bar as well."""
    progress.begin(what, total)
    try:
        yield
    finally:
        progress.end()


class Silent:
    """Prints nothing; for Python callers and tests."""

    def note(self, text: str) -> None: ...

    def begin(self, what: str, total: int, done: int = 0) -> None: ...

    def advance(self, done: int, text: str = "") -> None: ...

    def end(self) -> None: ...
