"""Geometry of the charts of a page. The templates draw them as SVG, in the colors of the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from freqkd_cli.report.page_scales import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Mark,
    Scale,
    log_ticks,
    marks,
    scale,
    ticks_between,
    vertical,
)

MOST_POINTS = 100
"""Points of a line; more are averaged."""


@dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes:
        role: decides color and dashes: ``baseline``, ``best``, ``teacher``, ``other``, or
            ``s0`` to ``s5`` for lines of equal rank.
    """

    name: str
    role: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Point:
    """A point of a scatter chart; ``low`` and ``high`` are the ends of its vertical whisker."""

    name: str
    role: str
    x: float
    y: float
    low: float
    high: float
    mark: str
    tip: str


@dataclass(frozen=True)
class Path:
    """The points of a drawn line, as SVG has them."""

    name: str
    role: str
    points: str


@dataclass(frozen=True)
class Dot:
    """A drawn point; ``top`` and ``bottom`` are the ends of its whisker."""

    role: str
    x: float
    y: float
    top: float
    bottom: float
    mark: str
    tip: str


@dataclass(frozen=True)
class Chart:
    """A chart, ready to be drawn.

    Attributes:
        about: the content in words, for readers who do not see it.
        rules: horizontal lines across the chart.
        legend: (role, name) of what is drawn.
    """

    title: str
    about: str
    x_label: str
    y_label: str
    x_ticks: list[Mark]
    y_ticks: list[Mark]
    paths: list[Path]
    dots: list[Dot]
    rules: list[Mark]
    legend: list[tuple[str, str]]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def line_chart(
    title: str,
    about: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    rule: tuple[str, float] | None = None,
    logarithmic: bool = False,
) -> Chart | None:
    """Return a chart of lines; None where no line has two finite points.

    Args:
        rule: name and height of a line across the chart.
        logarithmic: of the vertical axis, if all values are positive.
    """
    series = [part for part in map(_averaged, series) if len(part.x) > 1]
    if not series:
        return None
    heights = [y for part in series for y in part.y] + ([rule[1]] if rule else [])
    places = [x for part in series for x in part.x]
    x = scale(min(places), max(places), LEFT, WIDTH - RIGHT)
    logarithmic = logarithmic and min(heights) > 0
    y = vertical(heights, logarithmic)
    paths = [Path(part.name, part.role, _points(part, x, y)) for part in series]
    rules = [Mark(y(rule[1]), rule[0])] if rule else []
    ticks = log_ticks if logarithmic else ticks_between
    return Chart(
        title,
        about,
        x_label,
        y_label,
        marks(ticks_between(min(places), max(places)), x),
        marks(ticks(min(heights), max(heights)), y),
        paths,
        [],
        rules,
        _legend([(part.role, part.name) for part in series], rules),
    )


def scatter_chart(
    title: str,
    about: str,
    points: Sequence[Point],
    *,
    x_label: str,
    y_label: str,
    rule: tuple[str, float] | None = None,
    others: str = "",
) -> Chart:
    """Return a chart of at least one point; ``others`` names the points of the role ``other``."""
    heights = [y for point in points for y in (point.low, point.high)]
    heights += [rule[1]] if rule else []
    places = [point.x for point in points]
    room = 0.06 * (max(places) - min(places) or 1)
    edges = (min(places) - room, max(places) + 2 * room)
    x, y = scale(*edges, LEFT, WIDTH - RIGHT), vertical(heights, False)
    order = {"other": 0, "baseline": 1, "best": 2}
    dots = [
        Dot(p.role, x(p.x), y(p.y), y(p.high), y(p.low), p.mark, p.tip)
        for p in sorted(points, key=lambda point: order.get(point.role, 0))
    ]
    rules = [Mark(y(rule[1]), rule[0])] if rule else []
    names = [(p.role, others if p.role == "other" else p.name) for p in points]
    return Chart(
        title,
        about,
        x_label,
        y_label,
        marks(ticks_between(*edges), x),
        marks(ticks_between(min(heights), max(heights)), y),
        [],
        dots,
        rules,
        _legend(names, rules),
    )


def _points(series: Series, x: Scale, y: Scale) -> str:
    pairs = zip(series.x, series.y, strict=True)
    return " ".join(f"{x(place):.1f},{y(value):.1f}" for place, value in pairs)


def _averaged(series: Series) -> Series:
    """Return a line without values that are not finite, of at most :data:`MOST_POINTS` points."""
    pairs = [
        (x, y)
        for x, y in zip(series.x, series.y, strict=True)
        if math.isfinite(x) and math.isfinite(y)
    ]
    size = -(-len(pairs) // MOST_POINTS) or 1
    blocks = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    xs = [sum(x for x, _ in block) / len(block) for block in blocks]
    ys = [sum(y for _, y in block) / len(block) for block in blocks]
    return Series(series.name, series.role, xs, ys)


def _legend(entries: Iterable[tuple[str, str]], rules: Sequence[Mark]) -> list[tuple[str, str]]:
    return list(dict.fromkeys([*entries, *(("rule", rule.text) for rule in rules)]))
