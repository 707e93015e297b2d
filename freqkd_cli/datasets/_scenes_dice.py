"""Random whole numbers of ``scenes``, keyed by (seed, stream, index).

They must be equal on every machine. So the raw words of Philox are used: numpy keeps those fixed,
unlike the streams of its distributions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Color = tuple[int, int, int]
T = TypeVar("T")


class Dice:
    """Whole numbers from (seed, stream, index), independent of draws for other images."""

    def __init__(self, seed: int, stream: int, index: int) -> None:
        key = np.array([seed & 0xFFFF_FFFF_FFFF_FFFF, (stream << 56) | index], dtype=np.uint64)
        self._source = np.random.Philox(key=key)
        self._words: list[int] = []

    def between(self, low: int, high: int) -> int:
        """Return a whole number from low to high, both included."""
        if not self._words:
            self._words = (self._source.random_raw(512) >> np.uint64(32)).tolist()
        return low + ((self._words.pop() * (high - low + 1)) >> 32)

    def chance(self, percent: int) -> bool:
        return self.between(0, 99) < percent

    def pick(self, options: Sequence[T]) -> T:
        return options[self.between(0, len(options) - 1)]

    def vary(self, color: Color, by: int) -> Color:
        """Return the color, slightly lighter or darker and slightly shifted in each channel."""
        lift = self.between(-by, by)
        half = by // 2
        r, g, b = color
        return (
            r + lift + self.between(-half, half),
            g + lift + self.between(-half, half),
            b + lift + self.between(-half, half),
        )
