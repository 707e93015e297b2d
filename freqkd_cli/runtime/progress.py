"""How long work tells of itself. The engine speaks to this protocol; ``report/progress.py`` draws it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A listener. Everything it shows goes to stderr."""

    def note(self, text: str) -> None:
        """A line that stays."""

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """A stretch of ``total`` units starts, ``done`` of them already behind."""

    def advance(self, done: int, text: str = "") -> None:
        """``done`` units are behind in all; ``text`` says how it goes."""

    def end(self) -> None:
        """The stretch is over."""


class Silent:
    """Says nothing; for Python callers and tests."""

    def note(self, text: str) -> None: ...

    def begin(self, what: str, total: int, done: int = 0) -> None: ...

    def advance(self, done: int, text: str = "") -> None: ...

    def end(self) -> None: ...
