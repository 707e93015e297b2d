"""Which rows of a comparison a page draws in color: the baseline and the best one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from freqkd_cli.lab.comparison import Comparison
from freqkd_cli.lab.comparison_row import Row

Roles = Mapping[str, str]
"""Name of a row -> ``baseline``, ``best`` or ``other``."""


@dataclass(frozen=True)
class ShownRun:
    """A run whose predictions and spectra are shown; ``role`` is ``baseline`` or ``best``."""

    name: str
    role: str
    folder: Path


def best_row(comparison: Comparison) -> Row:
    """Return the row with the best mean besides the baseline; a single row itself."""
    others = [row for row in comparison.rows if row.name != comparison.baseline]
    sign = 1 if comparison.number.larger_is_better else -1
    return max(others or comparison.rows, key=lambda row: sign * row.mean)


def roles_of(comparison: Comparison) -> dict[str, str]:
    """Return what each row is; a single row is the best one."""
    roles = {row.name: "other" for row in comparison.rows} | {comparison.baseline: "baseline"}
    return roles | {best_row(comparison).name: "best"}


def shown_runs(comparison: Comparison, roles: Roles) -> list[ShownRun]:
    """Return a run of the baseline and one of the best row, of the smallest seed each."""
    shown = []
    for row in comparison.rows:
        if roles[row.name] != "other":
            record = min(row.records, key=lambda record: record.seed)
            name = f"{row.name} seed {record.seed}"
            shown.append(ShownRun(name, roles[row.name], record.folder))
    return sorted(shown, key=lambda run: run.role == "best")
