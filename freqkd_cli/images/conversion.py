"""``Conversion``: how stored pixels become 8-bit RGB, from the keys of a recipe or from options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from freqkd_cli.errors import DataBroken, UsageError

RECIPE, OPTION = "--set 'data.{key}={value}'", "--{key} {value}"
POOL = "--set 'data.pool.{key}={value}'"
"""How a changed key is written in a tip."""

_USUAL_BITS = (8, 10, 12, 14, 16)
"""Bits of cameras and scanners; a tip names the smallest that holds the values."""


@dataclass(frozen=True)
class Conversion:
    """How stored pixels become 8-bit RGB.

    Attributes:
        bits: value / (2^bits - 1) becomes 0 .. 1, in images of more than 8 bits a channel.
        percentile: these two percentiles of all channels of an image together become 0 and 1, in
            images of more than 8 bits a channel.
        bands: the bands that are red, green and blue, counted from 1.
        form: how a key is written in a tip, such as :data:`RECIPE` or :data:`OPTION`; None where a
            data set has no such keys.
    """

    bits: int | None = None
    percentile: tuple[float, float] | None = None
    bands: tuple[int, int, int] | None = None
    form: str | None = None

    def __post_init__(self) -> None:
        if self.bits is not None and self.percentile is not None:
            raise UsageError(
                "bits and percentile exclude each other",
                got=f"bits: {self.bits} and percentile: {_text(self.percentile)}",
                need="one of them",
                key="percentile",
            )
        low, high = self.percentile or (0, 100)
        if not 0 <= low < high <= 100:
            raise UsageError(
                "percentile needs two percentages, the smaller first",
                got=_text(self.percentile or ()),
                need="0 <= low < high <= 100, such as [1, 99]",
                key="percentile",
            )
        if self.bits is not None and not 8 <= self.bits <= 16:
            raise UsageError("bits is out of range", got=self.bits, need="8 to 16", key="bits")
        if self.bands and (len(self.bands) != 3 or not all(1 <= band <= 4 for band in self.bands)):
            raise UsageError(
                "bands needs three numbers", got=_text(self.bands), need="1 to 4", key="bands"
            )

    @classmethod
    def of(
        cls,
        bits: int | None,
        percentile: Sequence[float] | None,
        bands: Sequence[int] | None,
        form: str,
    ) -> Conversion:
        """Return the conversion of keys as a recipe holds them.

        Raises:
            UsageError: they exclude each other, or a value is out of range.
        """
        pairs = (None if part is None else tuple(part) for part in (percentile, bands))
        return cls(bits, *pairs, form)  # type: ignore[arg-type]

    @property
    def reads_deep(self) -> bool:
        """Whether images of more than 8 bits a channel can be read."""
        return self.bits is not None or self.percentile is not None

    def arguments(self) -> dict[str, Any]:
        """Return the keys that are set, as JSON."""
        values = {"bits": self.bits, "percentile": self.percentile, "bands": self.bands}
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in values.items()
            if value is not None
        }

    def tip(self, key: str, value: int | Sequence[float]) -> str | None:
        """Return a changed key as it can be pasted, None where there is no such key."""
        if self.form is None:
            return None
        if isinstance(value, int):
            return self.form.format(key=key, value=value)
        text = _text(value) if self.form != OPTION else ",".join(f"{part:g}" for part in value)
        return self.form.format(key=key, value=text)

    def range_tip(self, low: float, high: float, fractions: bool) -> str:
        """Return what to do about images of more than 8 bits with values from low to high."""
        stretch = self.tip("percentile", (1, 99))
        if stretch is None:
            return "save it with 8 bits a channel, its values scaled to 0 .. 255"
        bits = next((bits for bits in _USUAL_BITS if high < 2**bits), None)
        if fractions or bits is None or low < 0:
            return f"{stretch}, which fits each image to its own values"
        return (
            f"{self.tip('bits', bits)} if no image has values above {2**bits - 1}, "
            f"or {stretch} to fit each image to its own values"
        )

    def to_uint8(self, values: np.ndarray) -> np.ndarray:
        """Return pixel values of any range as uint8, by ``bits`` or by ``percentile``.

        Values that are not finite become 0.

        Raises:
            DataBroken: with ``bits``, fractions or values outside 0 .. 2^bits - 1.
        """
        if self.bits is not None:
            return self._by_bits(values)
        finite = values if values.dtype.kind in "ui" else values[np.isfinite(values)]
        if not finite.size:
            return np.zeros(values.shape, np.uint8)
        low, high = np.percentile(finite, self.percentile or (0, 100))
        if high <= low:  # nearly all pixels are equal
            low, high = float(finite.min()), float(finite.max())
        scaled = (values.astype(np.float32) - low) * (255 / max(high - low, 1e-30))
        return np.nan_to_num(scaled, nan=0, posinf=0, neginf=0).clip(0, 255).round().astype("u1")

    def _by_bits(self, values: np.ndarray) -> np.ndarray:
        top = 2 ** (self.bits or 8) - 1
        low, high, fractions = value_range(values)
        if fractions or low < 0 or high > top:
            raise DataBroken(
                "the pixels do not fit data.bits",
                got=f"{'fractions' if fractions else 'values'} from {low:.6g} to {high:.6g}",
                need=f"whole numbers from 0 to {top}, because bits is {self.bits}",
                tip=self.range_tip(low, high, fractions),
                key="bits",
            )
        table = np.round(np.arange(top + 1) * (255 / top)).astype(np.uint8)
        return table[values]


AS_STORED = Conversion()
"""At most 8 bits a channel, and no key."""


def value_range(values: np.ndarray) -> tuple[float, float, bool]:
    """Return the smallest and largest finite value, and whether the values are fractions."""
    fractions = values.dtype.kind not in "ui"
    finite = values[np.isfinite(values)] if fractions else values
    if not finite.size:
        return 0, 0, fractions
    return finite.min().item(), finite.max().item(), fractions


def range_text(bits: int, low: float, high: float, fractions: bool) -> str:
    """Return what an image of more than 8 bits holds, in words."""
    kind = f"{bits}-bit fractions" if fractions else f"{bits} bits a channel"
    return f"{kind}, values from {low:.6g} to {high:.6g}"


def _text(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in values) + "]"
