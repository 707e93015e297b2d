"""Progress on stderr: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time


class Lines:
    """Plain lines, at most one every ``every`` seconds, so a log file stays readable."""

    def __init__(self, every: float = 10.0) -> None:
        self.every = every
        self.what, self.total, self.shown = "", 0, 0.0

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        self.what, self.total, self.shown = what, total, time.monotonic()

    def advance(self, done: int, text: str = "") -> None:
        now = time.monotonic()
        if now - self.shown >= self.every:
            self.shown = now
            self.note(f"{self.what} {done}/{self.total}  {text}".rstrip())

    def end(self) -> None: ...


class Quiet(Lines):
    """Only what stays, and no stretches."""

    def advance(self, done: int, text: str = "") -> None: ...

    def note(self, text: str) -> None: ...


class Bars:
    """A Rich bar with what the work says of itself and the time left."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True)
        self.bar, self.task = None, None

    def note(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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
    """The listener that fits where stderr goes; ``verbosity`` below 0 is quiet."""
    if verbosity < 0:
        return Quiet()
    return Bars() if sys.stderr.isatty() else Lines()
