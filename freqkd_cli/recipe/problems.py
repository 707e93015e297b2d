"""What is wrong with a recipe, and where: problems as data, so that others can add theirs and all are told at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from freqkd_cli.errors import RecipeError

SHOWN = 40
"""Problems printed of one recipe; a file of another kind could have thousands."""


@dataclass(frozen=True, order=True)
class Place:
    """Where something was written. Places sort in reading order: the file first, then every ``--set``, then options.

    Attributes:
        order: 0 for the file, 1, 2, ... for what came after it.
        line, column: counted from 1; 0 where there are none.
        source: the file's name as the user gave it, or the ``--set`` itself.
    """

    order: int
    line: int
    column: int
    source: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass(frozen=True)
class Problem:
    """One mistake: its place, the key path it is about (empty for syntax) and what to say of it."""

    place: Place
    key: str
    text: str

    @property
    def line(self) -> int:
        return self.place.line

    @property
    def column(self) -> int:
        return self.place.column

    def __str__(self) -> str:
        told = not self.key or (
            not self.place.line and self.place.source.startswith(f"--set {self.key}=")
        )
        return f"{self.place}: {self.text}" if told else f"{self.place} {self.key}: {self.text}"


def as_error(problems: Iterable[Problem], source: str) -> RecipeError:
    """All problems as one error, in file order; of two about the same key at the same place the first is kept."""
    kept: dict[tuple[Place, str], Problem] = {}
    for problem in problems:
        kept.setdefault((problem.place, problem.key), problem)
    ordered = sorted(kept.values(), key=lambda p: (p.place, p.key))
    lines = [str(p) for p in ordered[:SHOWN]]
    if len(ordered) > SHOWN:
        lines.append(f"and {len(ordered) - SHOWN} more")
    count = "1 problem" if len(ordered) == 1 else f"{len(ordered)} problems"
    return RecipeError(f"{count} in {source}", problems=lines)
