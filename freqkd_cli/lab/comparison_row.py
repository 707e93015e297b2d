"""One row of a comparison: a recipe over its seeds, and its difference to the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from freqkd_cli.lab import statistics
from freqkd_cli.lab.compared_number import ComparedNumber
from freqkd_cli.lab.grouping import Group
from freqkd_cli.lab.inequality import mean
from freqkd_cli.lab.run_record import RunRecord
from freqkd_cli.lab.statistics import Difference
from freqkd_cli.lab.verdict import BASELINE, Verdict, verdict


@dataclass(frozen=True)
class Row:
    """A recipe over its seeds. Shares are fractions; differences are to the baseline.

    Attributes:
        name: of the recipe, with the values of its axes where a study has some.
        records: its finished runs.
        values: seed -> the number that is compared.
        mean, sd: over all seeds; ``sd`` (n - 1) is None for one seed.
        seconds_per_step: mean of the runs; ``cost`` is the ratio to the baseline's.
        pairs: seeds that both rows have.
        paired: the difference is taken over ``pairs``; False where there are fewer than two of
            them and both rows have several seeds.
        difference, low, high: mean difference and its 95 % interval; None for the baseline. The
            interval is that of a paired t test, or of Welch's where the seeds are not paired.
        p_value: of the same test.
        bootstrap_low, bootstrap_high: percentile bootstrap of the same difference.
        wins: pairs in which the row is better; None where it is unpaired.
        gap_closed: share of the teacher's lead over the baseline; None where that is not known.
        unequal: what differs from the baseline besides the losses (steps, time, views, data,
            teacher, student, training, device) -> how.
    """

    name: str
    records: tuple[RunRecord, ...]
    values: Mapping[int, float]
    seconds_per_step: float | None
    cost: float | None = None
    pairs: tuple[int, ...] = ()
    paired: bool = True
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    bootstrap_low: float | None = None
    bootstrap_high: float | None = None
    wins: int | None = None
    gap_closed: float | None = None
    unequal: Mapping[str, str] = field(default_factory=dict)
    verdict: Verdict = BASELINE

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(self.values)

    @property
    def mean(self) -> float:
        return sum(self.values.values()) / len(self.values)

    @property
    def sd(self) -> float | None:
        return statistics.deviation(list(self.values.values()))

    def to_json(self, metric: str) -> dict[str, Any]:
        """Return the row as ``compare --json`` prints it."""
        copied = (
            *("difference", "low", "high", "p_value", "bootstrap_low", "bootstrap_high"),
            *("pairs", "paired", "wins", "gap_closed", "seconds_per_step", "cost", "unequal"),
        )
        return {
            "name": self.name,
            "runs": [str(record.folder) for record in self.records],
            "seeds": list(self.seeds),
            metric: {"mean": self.mean, "sd": self.sd, "values": list(self.values.values())},
            **{key: getattr(self, key) for key in copied},
            "verdict": self.verdict.words,
            "verdict_kind": self.verdict.kind,
            "seeds_needed": self.verdict.seeds_needed,
        }


def row_alone(group: Group, number: ComparedNumber) -> Row | None:
    """Return the row of a group without a difference; None where no run has the number."""
    known = {seed: number.of(run) for seed, run in sorted(group.runs.items()) if run.finished}
    values = {seed: value for seed, value in known.items() if value is not None}
    if not values:
        return None
    runs = tuple(group.runs[seed] for seed in values)
    seconds = mean([run.seconds_per_step for run in runs])
    return Row(name=group.name, records=runs, values=values, seconds_per_step=seconds)


def row_against(
    row: Row, base: Row, number: ComparedNumber, teacher: float | None, unequal: Mapping[str, str]
) -> Row:
    """Return a row with its difference to the baseline ``base``.

    Args:
        teacher: the teacher's number; None where it is not known.
    """
    pairs = tuple(seed for seed in row.seeds if seed in base.values)
    unpaired = len(pairs) < 2 and min(len(row.values), len(base.values)) > 1
    own, other = list(row.values.values()), list(base.values.values())
    steps = [row.values[seed] - base.values[seed] for seed in pairs]
    test: Difference | None = None
    if unpaired:
        test, low_high = statistics.unpaired(own, other), statistics.bootstrap(own, other)
        deviation = float((row.sd or 0.0) ** 2 + (base.sd or 0.0) ** 2) ** 0.5
        seeds = min(len(own), len(other))
    else:
        deviation, seeds, low_high = statistics.deviation(steps) or 0.0, len(pairs), (None, None)
        if len(pairs) > 1:
            test, low_high = statistics.paired(steps), statistics.bootstrap(steps)
    difference = test.mean if test else mean(steps)
    reached = [base.values[seed] for seed in pairs] if pairs and not unpaired else other
    low, high = test.interval if test else (None, None)
    sign = 1 if number.larger_is_better else -1
    return Row(
        name=row.name,
        records=row.records,
        values=row.values,
        seconds_per_step=row.seconds_per_step,
        cost=_ratio(row.seconds_per_step, base.seconds_per_step),
        pairs=pairs,
        paired=not unpaired,
        difference=difference,
        low=low,
        high=high,
        p_value=test.p_value if test else None,
        bootstrap_low=low_high[0],
        bootstrap_high=low_high[1],
        wins=None if unpaired else sum(sign * step > 0 for step in steps),
        gap_closed=_gap_closed(difference, mean(reached), teacher),
        unequal=unequal,
        verdict=verdict(test, seeds, deviation=deviation, larger_is_better=number.larger_is_better),
    )


def _ratio(own: float | None, other: float | None) -> float | None:
    return own / other if own and other else None


def _gap_closed(
    difference: float | None, reached: float | None, teacher: float | None
) -> float | None:
    """Return the share of the teacher's lead; None without a teacher that is ahead."""
    if difference is None or reached is None or teacher is None or teacher <= reached:
        return None
    return difference / (teacher - reached)
