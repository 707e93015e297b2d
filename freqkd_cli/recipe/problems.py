"""Problems of a recipe as data, with their places, so that all are reported in one error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from freqkd_cli.errors import RecipeError

SHOWN = 40
"""Problems that are printed of one recipe; a file of another kind could have thousands."""


@dataclass(frozen=True, order=True)
class Place:
    """A position in a recipe or on the command line.

    Places sort in reading order: the file first, then every ``--set``, then options.

    Attributes:
        order: 0 for the file, 1, 2, ... for what came after it.
        line, column: counted from 1; 0 where there are none.
        source: the file's name as given by the user, or the ``--set`` itself.
        key: the key path that a ``--set`` changes; empty for the file.
    """

    order: int
    line: int
    column: int
    source: str
    key: str = ""

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass(frozen=True)
class Problem:
    """One mistake: its place, its key path (empty for syntax) and its text."""

    place: Place
    key: str
    text: str

    def __str__(self) -> str:
        shown = not self.key or self.key == self.place.key  # the --set itself has the key
        where = str(self.place) if shown else f"{self.place} {self.key}"
        return f"{where}: {self.text}"


def as_error(problems: Iterable[Problem], source: str) -> RecipeError:
    """Return all problems as one error, in file order.

    Of two problems with the same key and place, the first is kept.
    """
    kept: dict[tuple[Place, str], Problem] = {}
    for problem in problems:
        kept.setdefault((problem.place, problem.key), problem)
    ordered = sorted(kept.values(), key=lambda p: (p.place, p.key))
    lines = [str(p) for p in ordered[:SHOWN]]
    if len(ordered) > SHOWN:
        lines.append(f"and {len(ordered) - SHOWN} more")
    count = "1 problem" if len(ordered) == 1 else f"{len(ordered)} problems"
    return RecipeError(f"{count} in {source}", problems=lines)
