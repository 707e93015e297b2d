"""Scales and ticks of the charts of a page: pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 360, 250
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 14, 40
"""Size of a chart and its margins, in the units of its SVG, which a phone shows as pixels."""

Scale = Callable[[float], float]
"""Value -> coordinate of the SVG."""


@dataclass(frozen=True)
class Mark:
    """A tick of an axis, or a line across the chart, at a coordinate of the SVG."""

    at: float
    text: str


def ticks_between(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers within [low, high], at most about ``most``, 1, 2 or 5 of a power apart.

    Where they are equal, that number alone.
    """
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten within [low, high], with 2 and 5 between them where they are few.

    Where none of them lies within, low and high themselves.
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        ticks = [factor * 10.0**power for power in powers for factor in factors]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) >= 3:
            return inside
    return inside or sorted({low, high})


def vertical(values: Sequence[float], logarithmic: bool) -> Scale:
    """Return the scale of a vertical axis, with room above and below the values."""
    low, high = min(values), max(values)
    if logarithmic:
        room = (high / low) ** 0.05 if high > low else 1.1
        inner = scale(math.log(low / room), math.log(high * room), HEIGHT - BOTTOM, TOP)
        return lambda value: inner(math.log(value))
    room = 0.06 * (high - low or abs(high) or 1)
    return scale(low - room, high + room, HEIGHT - BOTTOM, TOP)


def scale(low: float, high: float, start: float, end: float) -> Scale:
    """Return the linear map of [low, high] to [start, end]."""
    span = high - low or 1
    return lambda value: start + (value - low) / span * (end - start)


def marks(values: Iterable[float], place: Scale) -> list[Mark]:
    """Return ticks with as many digits as their distance needs; a single one has four."""
    values = list(values)
    steps = [b - a for a, b in zip(values, values[1:], strict=False)]
    digits = max(0, -math.floor(math.log10(min(steps)) + 1e-9)) if steps else None
    return [Mark(place(value), _text(value, digits)) for value in values]


def _text(value: float, digits: int | None) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.4g}" if digits is None or digits > 4 else f"{value:.{digits}f}"
