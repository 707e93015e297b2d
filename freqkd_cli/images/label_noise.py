"""Recognise label values that JPEG or interpolation changed: a few levels with values between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_APART = 16
"""Levels closer than this cannot be separated."""

_AT_PEAK, _NEAR = 2, 8
"""Values this close to a level count as the level itself, or as its noise."""


@dataclass(frozen=True)
class Noise:
    """The levels of noisy label values.

    Attributes:
        levels: the most frequent value of each class, ascending.
        near: pixels near each level, within a quarter of the smallest distance of two levels.
        between: all other pixels.
    """

    levels: tuple[int, ...]
    near: tuple[int, ...]
    between: int

    @property
    def bounds(self) -> tuple[int, ...]:
        """The first value that is nearer to the next level, for each level but the last."""
        pairs = zip(self.levels, self.levels[1:], strict=False)
        return tuple(-(-(low + high) // 2) for low, high in pairs)

    def ranges(self, highest: int) -> list[str]:
        """Return the values of each level as keys of ``data.label_map``."""
        starts = (0, *self.bounds)
        ends = (*(bound - 1 for bound in self.bounds), highest)
        return [f"{first}-{last}" for first, last in zip(starts, ends, strict=True)]

    @property
    def what(self) -> str:
        low, high = self.levels[0], self.levels[-1]
        return f"values between {low} and {high}: saved as JPEG or resized with interpolation"

    @property
    def got(self) -> str:
        near = zip(self.near, self.levels, strict=True)
        parts = ", ".join(f"{pixels:,} near {level}" for pixels, level in near)
        return f"pixels: {parts}, {self.between:,} between"


def noise_of(counts: Mapping[float, int], classes: int) -> Noise | None:
    """Return the levels of noisy values, as many as classes or one more (void); else None.

    Args:
        counts: stored value -> pixels.
    """
    if len(counts) < classes + 3 or min(counts) < 0 or classes < 2:
        return None
    if any(value != int(value) for value in counts):
        return None
    span = max(counts) - min(counts)
    peaks = _peaks(counts, classes + 1, max(_APART, span / (2 * classes)))
    for number in (classes + 1, classes):
        if len(peaks) >= number:
            noise = _around(counts, sorted(peaks[:number]))
            if _is_noise(counts, noise, void=number > classes):
                return noise
    return None


def _peaks(counts: Mapping[float, int], number: int, apart: float) -> list[int]:
    """Return the most frequent values that are ``apart``, in the order of their pixels."""
    peaks: list[int] = []
    for value in sorted(counts, key=lambda value: (-counts[value], value)):
        if len(peaks) < number and all(abs(value - peak) >= apart for peak in peaks):
            peaks.append(int(value))
    return peaks


def _around(counts: Mapping[float, int], levels: Sequence[int]) -> Noise:
    gap = min(high - low for low, high in zip(levels, levels[1:], strict=False))
    near = tuple(_within(counts, level, gap / 4) for level in levels)
    return Noise(tuple(levels), near, sum(counts.values()) - sum(near))


def _within(counts: Mapping[float, int], level: int, distance: float) -> int:
    return sum(pixels for value, pixels in counts.items() if abs(value - level) <= distance)


def _is_noise(counts: Mapping[float, int], noise: Noise, *, void: bool) -> bool:
    total = sum(counts.values())
    others = [value for value in counts if value not in noise.levels]
    close = [v for v in others if any(abs(v - level) <= _NEAR for level in noise.levels)]
    if len(others) < 5 and len(close) < 3:
        return False  # single stray values
    if max(counts[value] for value in others) > 0.1 * total:
        return False  # another class
    at_peaks = [_within(counts, level, _AT_PEAK) for level in noise.levels]
    if sum(at_peaks) < 0.5 * total or sum(noise.near) < 0.7 * total:
        return False  # a photograph
    rarest = min(range(len(at_peaks)), key=lambda k: noise.near[k])
    share = noise.near[rarest] / total
    return not void or (share > 0.03 and at_peaks[rarest] > 0.25 * noise.near[rarest])
