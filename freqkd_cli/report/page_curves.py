"""Charts of a page that are drawn from the records of runs: cost, and learning curves."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from statistics import fmean

from freqkd_cli.lab.compared_number import ComparedNumber
from freqkd_cli.lab.comparison import Comparison
from freqkd_cli.lab.run_record import RunRecord
from freqkd_cli.report.page_charts import (
    Chart,
    Point,
    Series,
    line_chart,
    scatter_chart,
)
from freqkd_cli.report.page_roles import Roles
from freqkd_cli.report.page_tables import printed

MARKED = 30
"""Rows up to which every point of the scatter chart has the number of its row."""


def teacher_of(comparison: Comparison, roles: Roles) -> float | None:
    """Return the number of the best row's teacher, else of any; None where none is known."""
    known = comparison.teachers
    best = next(
        (known[name] for name, role in roles.items() if role == "best" and name in known), None
    )
    return next(iter(known.values()), None) if best is None else best


def cost_chart(comparison: Comparison, roles: Roles) -> Chart | None:
    """Return the scores over the time of a step; None where no time is known."""
    timed = [row for row in comparison.rows if row.seconds_per_step]
    if not timed:
        return None
    costs = {row.name: 1.0 if row.name == comparison.baseline else row.cost for row in timed}
    relative = None not in costs.values()
    number, title = comparison.number, label(comparison.number)
    numbers = {row.name: number for number, row in enumerate(comparison.rows, start=1)}
    points = []
    for row in timed:
        mean, sd = number.factor * row.mean, number.factor * (row.sd or 0)
        cost = (costs[row.name] or 1.0) if relative else 1000 * (row.seconds_per_step or 0)
        unit = "times the baseline's" if relative else "ms"
        place, role = numbers[row.name], roles[row.name]
        score = " ± ".join(filter(None, (printed(row.mean, number), printed(row.sd, number))))
        tip = f"{place} {row.name}: {score}, step {cost:.3g} {unit}"
        mark = str(place) if role != "other" or len(timed) <= MARKED else ""
        points.append(Point(row.name, role, cost, mean, mean - sd, mean + sd, mark, tip))
    return scatter_chart(
        f"{number.title} over the time of a step",
        "Each point is a recipe, with its number in the table; whiskers are one standard "
        f"deviation over seeds. Left and {'up' if number.larger_is_better else 'down'} is better.",
        points,
        x_label="time of a step, relative to the baseline" if relative else "ms per step",
        y_label=title,
        rule=_rule(comparison, roles),
        others="other recipes",
    )


def learning_curves(comparison: Comparison, roles: Roles) -> list[Chart]:
    """Return the validation scores and the training cross-entropy of all rows over the steps.

    Lines are means over seeds. Rows that are neither the baseline nor the best are grey.
    """
    number = comparison.number
    scores = _mean_lines(comparison, roles, lambda run: _scores(run, number))
    losses = _mean_lines(comparison, roles, lambda run: _raw(run, "cross_entropy"))
    about = "Means over seeds; grey lines are the other recipes. "
    charts = [
        line_chart(
            f"{number.title} on the scored images",
            about + "Point at a line to read its name.",
            scores,
            x_label="step",
            y_label=label(number),
            rule=_rule(comparison, roles),
        ),
        line_chart(
            "Cross-entropy in training",
            about + "The term that all recipes have, without its weight.",
            losses if len(losses) == len(comparison.rows) else [],
            x_label="step",
            y_label="cross-entropy",
            logarithmic=True,
        ),
    ]
    return [chart for chart in charts if chart is not None]


def run_curves(comparison: Comparison, roles: Roles) -> list[Chart]:
    """Return the weighted losses and the validation scores of a single run over the steps."""
    record, number = comparison.rows[0].records[0], comparison.number
    rows = [row for row in record.rows if isinstance(row.get("weighted"), Mapping)]
    names = dict.fromkeys(name for row in rows for name in row["weighted"])
    series = [
        _line(name, f"s{place % 6}", {row["step"]: row["weighted"].get(name) for row in rows})
        for place, name in enumerate(names)
    ]
    if len(names) > 1:
        series.append(_line("total", "baseline", {row["step"]: row.get("total") for row in rows}))
    charts = [
        line_chart(
            "Weighted losses",
            "Each term times its weight, and their sum.",
            series,
            x_label="step",
            y_label="loss",
            logarithmic=True,
        ),
        line_chart(
            f"{number.title} on the scored images",
            "The score of the weights that would be kept at that step.",
            [_line(number.title, "best", _scores(record, number))],
            x_label="step",
            y_label=label(number),
            rule=_rule(comparison, roles),
        ),
    ]
    return [chart for chart in charts if chart is not None]


def label(number: ComparedNumber) -> str:
    """Return the title of a number with its unit."""
    return f"{number.title}, %" if number.percent else number.title


def _rule(comparison: Comparison, roles: Roles) -> tuple[str, float] | None:
    teacher = teacher_of(comparison, roles)
    return None if teacher is None else ("teacher", comparison.number.factor * teacher)


def _mean_lines(
    comparison: Comparison, roles: Roles, read: Callable[[RunRecord], Mapping[int, float]]
) -> list[Series]:
    """Return a line for each row that has values, the others first, so that they lie below."""
    series = []
    for row in sorted(comparison.rows, key=lambda row: roles[row.name] != "other"):
        values = _means(read(run) for run in row.records)
        if values:
            series.append(_line(row.name, roles[row.name], values))
    return series


def _means(curves: Iterable[Mapping[int, float]]) -> dict[int, float]:
    """Return step -> mean, of the steps that every curve has."""
    curves = list(curves)
    values: dict[int, list[float]] = defaultdict(list)
    for curve in curves:
        for step, value in curve.items():
            values[step].append(value)
    return {step: fmean(v) for step, v in sorted(values.items()) if len(v) == len(curves)}


def _scores(run: RunRecord, number: ComparedNumber) -> dict[int, float]:
    """Return step -> score, as it is printed."""
    rows = ((row["step"], row.get("val")) for row in run.rows)
    values = _numbers(
        (step, val.get(number.name)) for step, val in rows if isinstance(val, Mapping)
    )
    return {step: number.factor * value for step, value in values.items()}


def _raw(run: RunRecord, term: str) -> dict[int, float]:
    rows = ((row["step"], row.get("raw")) for row in run.rows)
    return _numbers((step, raw.get(term)) for step, raw in rows if isinstance(raw, Mapping))


def _numbers(pairs: Iterable[tuple[int, object]]) -> dict[int, float]:
    return {
        step: float(value)
        for step, value in pairs
        if isinstance(value, (int, float)) and math.isfinite(value)
    }


def _line(name: str, role: str, values: Mapping[int, object]) -> Series:
    numbers = _numbers(values.items())
    return Series(name, role, list(numbers), list(numbers.values()))
