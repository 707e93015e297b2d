"""The number that runs are compared by: its title, its unit and which of two values is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from freqkd_cli import registry
from freqkd_cli.errors import UsageError, some
from freqkd_cli.lab.run_record import EVAL, RunRecord
from freqkd_cli.registry import did_you_mean

MIOU = "miou"
LISTED = 16
"""Numbers that an error lists at most."""
_SHARES = {
    MIOU: "mIoU",
    "last_miou": "mIoU of the last step",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "boundary_iou": "boundary IoU",
}
"""Numbers whose title is known without importing the metrics, and torch with them."""


@dataclass(frozen=True)
class ComparedNumber:
    """A number of the runs, such as ``miou`` or ``iou.road``.

    Attributes:
        percent: it is a share, printed times 100.
        larger_is_better: False for an error.
        absolute: its absolute value is compared, since negative values are errors as well.
    """

    name: str
    title: str
    percent: bool = True
    larger_is_better: bool = True
    absolute: bool = False

    def of(self, run: RunRecord) -> float | None:
        """Return the value of a run; None where it has none."""
        value = run.numbers.get(self.name)
        return abs(value) if self.absolute and value is not None else value

    @property
    def factor(self) -> float:
        """Return what a value is printed times."""
        return 100.0 if self.percent else 1.0


def compared_number(name: str, records: Sequence[RunRecord]) -> ComparedNumber:
    """Return the number called ``name``; the name of a class alone is that of its IoU.

    Raises:
        UsageError: no run has it.
    """
    known = list(dict.fromkeys(key for record in records for key in record.numbers))
    if name not in known and f"iou.{name}" in known:
        name = f"iou.{name}"
    if name == MIOU or name in known:
        return _declared(name)
    raise UsageError(
        f"no run has a number called {name!r}{did_you_mean(name, known)}",
        need=f"one of {some(known, LISTED)}",
        tip=f"freqkd eval RUN --json > RUN/{EVAL} adds the other numbers of a run",
    )


def _declared(name: str) -> ComparedNumber:
    if name in _SHARES:
        return ComparedNumber(name, _SHARES[name])
    kind, _, label = name.partition(".")
    if label and kind == "iou":
        return ComparedNumber(name, f"IoU of {label}")
    data = "PER_CLASS" if label else "NUMBERS"
    metrics = (registry.find("metrics", metric) for metric in registry.names("metrics"))
    tables = (getattr(metric, data, {}) for metric in metrics)  # imports torch
    declared = next((table[kind] for table in tables if kind in table), None)
    if declared is None:
        return ComparedNumber(name, name, percent=False)
    title = f"{declared.heading} of {label}" if label else declared.heading
    title = f"absolute {title}" if declared.signed else title
    percent, larger = declared.unit == "%", declared.best > 0
    return ComparedNumber(name, title, percent, larger, absolute=declared.signed)
