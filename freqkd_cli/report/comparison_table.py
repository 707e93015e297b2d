"""A comparison of recipes over their seeds as a table: for a terminal, and in Markdown."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from freqkd_cli.report.tables import Column, render

if TYPE_CHECKING:
    from freqkd_cli.lab.comparison import Comparison
    from freqkd_cli.lab.comparison_row import Row

WIDE = 130
"""Characters of a terminal that the whole table needs."""
LEFT_OUT_NARROW = ("seeds", "wins", "ms per step", "unequal", "verdict")
"""Columns that a narrower terminal does not show; the verdict comes last, as lines of its own."""


def as_text(comparison: Comparison) -> str:
    """Return the table and its notes for standard output."""
    number = comparison.number
    headings: list[Column | str] = [
        *("", "seeds", Column(number.title, ".2f"), Column("sd", ".2f")),
        *(Column("difference", "+.2f"), "95 % interval", "wins", "gap closed"),
        *(Column("ms per step", ",.0f"), Column("cost", ".2f"), "unequal", "verdict"),
    ]
    rows = [
        [
            row.name,
            ", ".join(map(str, row.seeds)),
            number.factor * row.mean,
            _scaled(row.sd, number.factor),
            _scaled(row.difference, number.factor),
            _interval(row, number.factor),
            _wins(row),
            _share(row.gap_closed),
            _scaled(row.seconds_per_step, 1000),
            row.cost,
            ", ".join(row.unequal),
            _verdict(row),
        ]
        for row in comparison.rows
    ]
    title = f"{number.title} of each recipe over its seeds; baseline {comparison.baseline}"
    narrow = sys.stdout.isatty() and shutil.get_terminal_size().columns < WIDE
    text = _narrow(headings, rows, title) if narrow else render(headings, rows, title=title)
    return "\n".join([text, *(["", *comparison.notes] if comparison.notes else [])])


def _narrow(headings: Sequence[Column | str], rows: Sequence[Sequence[Any]], title: str) -> str:
    """Return the most important columns, and the verdicts as lines below them."""
    names = [head.name if isinstance(head, Column) else head for head in headings]
    kept = [number for number, name in enumerate(names) if name not in LEFT_OUT_NARROW]
    table = render(
        [headings[number] for number in kept],
        [[row[number] for number in kept] for row in rows],
        title=title,
    )
    verdicts = [f"{row[0]}: {row[-1]}" for row in rows]
    note = f"not shown on a narrow terminal: {', '.join(LEFT_OUT_NARROW[:-1])}"
    return "\n".join([table, "", *verdicts, "", note])


def as_markdown(comparison: Comparison, command: str) -> str:
    """Return the table and its notes in Markdown.

    Args:
        command: what makes the table again.
    """
    number = comparison.number
    seeds = {row.seeds for row in comparison.rows}
    same = len(seeds) == 1
    each = f"Seeds {', '.join(map(str, next(iter(seeds))))}" if same else "Each seed"
    head = ["Recipe", number.title, "sd", each, "Difference", "95 % interval", "Wins"]
    head += ["Gap closed", "Cost of a step", "Unequal", "Verdict"]
    rows = [
        [
            f"`{row.name}`",
            f"{number.factor * row.mean:.2f}",
            _fixed(row.sd, number.factor),
            ", ".join(
                f"{number.factor * value:.2f}" + ("" if same else f" (seed {seed})")
                for seed, value in row.values.items()
            ),
            _fixed(row.difference, number.factor, "+.2f"),
            _interval(row, number.factor),
            _wins(row),
            _share(row.gap_closed),
            _fixed(row.cost, 1),
            ", ".join(row.unequal),
            _verdict(row),
        ]
        for row in comparison.rows
    ]
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)
    notes = [f"baseline: `{comparison.baseline}`", *comparison.notes, f"command: `{command}`"]
    return table + "\n\n" + "\n".join(f"- {' '.join(note.split())}" for note in notes) + "\n"


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value


def _fixed(value: float | None, factor: float, form: str = ".2f") -> str:
    return "" if value is None else format(factor * value, form)


def _interval(row: Row, factor: float) -> str:
    if row.low is None or row.high is None:
        return ""
    return f"{factor * row.low:+.2f} to {factor * row.high:+.2f}"


def _wins(row: Row) -> str:
    return "" if row.wins is None else f"{row.wins} of {len(row.pairs)}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _verdict(row: Row) -> str:
    return row.verdict.words if row.paired else f"{row.verdict.words} (unpaired)"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
