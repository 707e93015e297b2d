"""Small tables for stdout: drawn by Rich on a terminal, tab-separated when piped."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


def by_stage(document: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, Mapping[str, Any]]]]]:
    """The stages (or taps) of a ``freqkd spectrum`` document, with (role, numbers) of each side."""
    sides = [(document["of"], document["stages"]), ("teacher", document.get("teacher", {}))]
    names = dict.fromkeys(name for _, side in sides for name in side)
    return [(name, [(role, side[name]) for role, side in sides if name in side]) for name in names]


@dataclass(frozen=True)
class Column:
    """A column: its heading, and the format of its numbers."""

    name: str
    form: str = ""

    def text(self, value: Any) -> str:
        """A cell; empty for None."""
        if value is None:
            return ""
        return format(value, self.form) if self.form and not isinstance(value, str) else str(value)


def render(
    columns: Sequence[Column | str],
    rows: Iterable[Sequence[Any]],
    *,
    title: str | None = None,
    terminal: bool | None = None,
) -> str:
    """A table as text.

    On a terminal, numbers are flush right and ``title`` is printed above. Elsewhere the first line
    has the headings and there is no title. Cells are separated by tabs, and a tab or line break
    inside a cell becomes a space.

    Args:
        terminal: whether to write for a terminal; None = if stdout is one.
    """
    heads = [column if isinstance(column, Column) else Column(column) for column in columns]
    values = [list(row) for row in rows]
    cells = [[head.text(value) for head, value in zip(heads, row, strict=True)] for row in values]
    if not (sys.stdout.isatty() if terminal is None else terminal):
        return "\n".join(
            "\t".join(" ".join(cell.split()) for cell in row)
            for row in [[head.name for head in heads], *cells]
        )
    numeric = [
        all(isinstance(value, int | float | None) for value in c) for c in zip(*values, strict=True)
    ] or [False] * len(heads)
    rows = [[head.name for head in heads], *cells]
    return drawn(rows, [numeric] * len(rows), title)


def drawn(
    rows: Sequence[Sequence[str]],
    flush_right: Iterable[Iterable[bool]],
    title: str | None = None,
    width: int | None = None,
) -> str:
    """A table as Rich draws it on a terminal; where that is narrow, the widest columns are wrapped.

    Args:
        flush_right: of every cell, whether it is flush right.
        title: printed above; then the first row has headings, in bold as well.
        width: in characters; None = that of the terminal.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    style = {"title_justify": "left", "title_style": "bold", "show_header": False}
    table = Table(title=title, box=None, pad_edge=False, padding=(0, 2, 0, 0), **style)
    for _ in range(max(map(len, rows))):
        table.add_column(overflow="fold")
    for number, (row, sides) in enumerate(zip(rows, flush_right, strict=True)):
        bold = "bold" if title and not number else ""
        pairs = zip(row, sides, strict=True)  # Text: brackets in a class name are no markup
        table.add_row(*(Text(x, bold, justify="right" if y else "left") for x, y in pairs))
    console = Console(force_terminal=True, width=width)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip("\n")
