"""Progress on stderr: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time


class Lines:
    """Plain lines, at most one every ``every`` seconds, so a log file stays readable."""

    def __init__(self, every: float = 10.0) -> None:
        self.every = every
        self.what, self.total, self.shown = "", 0, 0.0
        self.start, self.first = 0.0, 0

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        self.what, self.total, self.shown = what, total, time.monotonic()
        self.start, self.first = self.shown, done

    def advance(self, done: int, text: str = "") -> None:
        now = time.monotonic()
        if now - self.shown >= self.every:
            self.shown = now
            self.note(f"{self.what} {done}/{self.total}  {text}".rstrip() + self._left(done, now))

    def _left(self, done: int, now: float) -> str:
        """The time left at the speed so far, if it is known."""
        if not self.first < done < self.total:
            return ""
        seconds = round((now - self.start) / (done - self.first) * (self.total - done))
        minutes, seconds = divmod(seconds, 60)
        hours, minutes = divmod(minutes, 60)
        return f"  {hours}:{minutes:02}:{seconds:02} left"

    def end(self) -> None: ...


class Quiet(Lines):
    """Nothing. Warnings go through Python's logging."""

    def advance(self, done: int, text: str = "") -> None: ...

    def note(self, text: str) -> None: ...


class Bars:
    """A Rich bar with the text of the work and the time left."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True)
        self.bar, self.task = None, None

    def note(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self.end()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(None),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
        )
        self.bar = Progress(*columns, console=self.console, transient=True)
        self.bar.start()
        self.task = self.bar.add_task(what, total=total, completed=done, text="")

    def advance(self, done: int, text: str = "") -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=done, text=text)

    def end(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def progress(verbosity: int = 0) -> Lines | Bars:
    """The display that suits stderr; nothing below verbosity 0."""
    if verbosity < 0:
        return Quiet()
    return Bars() if sys.stderr.isatty() else Lines()
