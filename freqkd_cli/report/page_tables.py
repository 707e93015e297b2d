"""Tables of a page as text: the comparison, and scores per class."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from freqkd_cli.lab.compared_number import ComparedNumber
from freqkd_cli.lab.comparison import Comparison
from freqkd_cli.lab.comparison_row import Row
from freqkd_cli.report.page_roles import Roles

SIGNS = {"better": "▲", "worse": "▼", "open": "○", "equal": "=", "single": "·", "baseline": ""}
"""Marks of verdicts, so that they do not depend on color."""
STRONGEST = 0.1
"""Difference of a class score at which a cell of the heat map has its full color."""
BAR = 120
"""Width of the drawing of an interval, in units of its SVG."""


@dataclass(frozen=True)
class Interval:
    """A drawn interval: coordinates from 0 to :data:`BAR`."""

    low: float
    high: float
    at: float
    zero: float


@dataclass(frozen=True)
class TableRow:
    """A row of the comparison as text; an empty text is not known."""

    number: int
    name: str
    role: str
    seeds: int
    score: str
    spread: str
    difference: str
    interval: str
    bar: Interval | None
    wins: str
    gap: str
    cost: str
    milliseconds: str
    kind: str
    sign: str
    verdict: str
    unequal: list[str]


@dataclass(frozen=True)
class Cell:
    """A score of a class. ``share`` is its difference to the baseline over the strongest."""

    text: str
    difference: str
    share: float


@dataclass(frozen=True)
class ClassTable:
    """Scores of every class, a row for each recipe that has them; the baseline is first."""

    metric: str
    classes: list[str]
    rows: list[tuple[str, list[Cell]]]


def comparison_table(comparison: Comparison, roles: Roles) -> list[TableRow]:
    """Return the rows of a comparison; intervals are drawn on one scale."""
    ends = [end for row in comparison.rows for end in (row.low, row.high, row.difference)]
    known = [0.0, *(end for end in ends if end is not None)]
    low, high = min(known), max(known)
    return [
        _table_row(place, row, roles[row.name], comparison.number, (low, high))
        for place, row in enumerate(comparison.rows, start=1)
    ]


def _table_row(
    place: int, row: Row, role: str, number: ComparedNumber, ends: tuple[float, float]
) -> TableRow:
    low, high = ends

    def at(value: float) -> float:
        return round(4 + (value - low) / (high - low or 1) * (BAR - 8), 1)

    bar = None
    if row.difference is not None:
        shown = [row.difference if end is None else end for end in (row.low, row.high)]
        bar = Interval(at(shown[0]), at(shown[1]), at(row.difference), at(0))
    interval = [change(end, number) for end in (row.low, row.high)]
    milliseconds = row.seconds_per_step and f"{1000 * row.seconds_per_step:.0f}"
    return TableRow(
        number=place,
        name=row.name,
        role=role,
        seeds=len(row.seeds),
        score=printed(row.mean, number),
        spread=printed(row.sd, number),
        difference=change(row.difference, number),
        interval=" to ".join(interval) if all(interval) else "",
        bar=bar,
        wins="" if row.wins is None else f"{row.wins} of {len(row.pairs)}",
        gap="" if row.gap_closed is None else f"{row.gap_closed:.0%}",
        cost="" if row.cost is None else f"{row.cost:.2f}",
        milliseconds=milliseconds or "",
        kind=row.verdict.kind,
        sign=SIGNS[row.verdict.kind],
        verdict=row.verdict.words,
        unequal=[f"{key}: {value}" for key, value in row.unequal.items()],
    )


def class_table(comparison: Comparison) -> ClassTable | None:
    """Return the IoU of every class, means over seeds; None where no run has them."""
    rows = sorted(comparison.rows, key=lambda row: row.name != comparison.baseline)
    tables = {row.name: _class_means(row) for row in rows}
    tables = {name: values for name, values in tables.items() if values}
    if not tables:
        return None
    classes = list(dict.fromkeys(label for values in tables.values() for label in values))
    base = tables.get(comparison.baseline, {})
    return ClassTable(
        "IoU",
        classes,
        [
            (name, [_cell(values.get(label), base.get(label)) for label in classes])
            for name, values in tables.items()
        ],
    )


def _class_means(row: Row) -> dict[str, float]:
    tables = [record.per_class.get("iou", {}) for record in row.records]
    tables = [table for table in tables if table]
    labels = dict.fromkeys(label for table in tables for label in table)
    return {label: fmean(t[label] for t in tables if label in t) for label in labels}


def _cell(value: float | None, base: float | None) -> Cell:
    if value is None:
        return Cell("", "", 0.0)
    if base is None:
        return Cell(f"{100 * value:.1f}", "", 0.0)
    difference = value - base
    share = max(-1.0, min(1.0, difference / STRONGEST))
    return Cell(f"{100 * value:.1f}", f"{100 * difference:+.1f}", round(share, 2))


def printed(value: float | None, number: ComparedNumber) -> str:
    """Return a value as the page shows it; empty for None."""
    return "" if value is None else f"{number.factor * value:.{2 if number.percent else 4}f}"


def change(value: float | None, number: ComparedNumber) -> str:
    """Return a difference with its sign; empty for None."""
    return "" if value is None else f"{number.factor * value:+.{2 if number.percent else 4}f}"
