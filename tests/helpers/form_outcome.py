"""What became of a form of a study, and which outcomes are right."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

Run = Callable[..., tuple[int | None, str, str]]
"""Runs a command line: exit code (None for a traceback), standard output, standard error."""

GOOD = (  # every other verdict is a failure
    "right at once",
    "right after 1 fix",
    "right after 2 fixes",
    "right after 3 fixes",
    "right after a placeholder was filled in",
    "right after a named key was set",
    "right after files were moved",
    "right after the class list was rewritten",
    "refused as not supported",
    "refused as damaged",
    "refused in its own words",
)


@dataclass
class Outcome:
    """What became of one form."""

    number: int
    form: str
    verdict: str
    message: str = ""

    @property
    def good(self) -> bool:
        return self.verdict in GOOD

    @property
    def line(self) -> str:
        """One line of a list of failures."""
        message = re.sub(r"/\S*/data(?=[/ ])", "DATA", " | ".join(self.message.splitlines()))
        return f"{self.number:03d} {self.verdict}: {self.form}: {message}"
