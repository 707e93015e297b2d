"""Learning-rate schedules: each is a function in :data:`SCHEDULES` under its name in recipes.

To add one, write its function and its line in :data:`SCHEDULES`, then run
``freqkd recipe schema > recipes/recipe.schema.json``. Pure arithmetic, so a resumed run needs no
scheduler state.
"""

from __future__ import annotations

import math
from collections.abc import Callable


def rate_factor(
    step: int, total: int, *, kind: str, warmup: float = 0.0, power: float = 0.9
) -> float:
    """Return the share of the peak learning rate at ``step`` (0-based) of ``total`` steps.

    Args:
        kind: a name in :data:`SCHEDULES`.
        warmup: share of the steps in which the learning rate rises.
        power: exponent of ``poly``.
    """
    return SCHEDULES[kind](step, total, warmup, power)


def _poly(step: int, total: int, warmup: float, power: float) -> float:
    """Linear warm-up, then (1 - t)^power (Chen et al., DeepLab)."""
    rise = warmup * total
    if step < rise:
        return _linear(step, rise)
    return (1 - (step - rise) / max(1.0, total - rise)) ** power


def _one_cycle(step: int, total: int, warmup: float, power: float) -> float:
    """Cosine from 1/25 up to 1 during the warm-up, then cosine down to 1/2.5e5.

    A ``warmup`` of 0 means 30 % of the steps (Smith and Topin 2017; the constants of torch's
    OneCycleLR).
    """
    rise = max(1.0, (warmup or 0.3) * total - 1)
    if step <= rise:
        return _cosine(1 / 25, 1.0, step / rise)
    return _cosine(1.0, 1 / 2.5e5, min(1.0, (step - rise) / max(1.0, total - 1 - rise)))


def _constant(step: int, total: int, warmup: float, power: float) -> float:
    """Linear warm-up, then 1."""
    rise = warmup * total
    return _linear(step, rise) if step < rise else 1.0


def _linear(step: int, rise: float) -> float:
    return (step + 1) / (rise + 1)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


SCHEDULES: dict[str, Callable[[int, int, float, float], float]] = {
    "poly": _poly,
    "one_cycle": _one_cycle,
    "constant": _constant,
}
"""Name in ``train.schedule`` -> function of (step, total, warmup, power)."""
