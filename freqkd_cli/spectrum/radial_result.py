"""The result of a radial measurement: its JSON document and its CSV table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from freqkd_cli.features.taps import Tap
from freqkd_cli.runtime.files import write_csv
from freqkd_cli.spectral.power import RadialSpectrum
from freqkd_cli.spectrum.subjects import by_role


@dataclass(frozen=True)
class TapSpectrum:
    """The spectrum of one tap, averaged over images and channels."""

    tap: Tap
    role: str
    model: str
    grid: tuple[int, int]
    spectrum: RadialSpectrum

    @property
    def cycles_per_pixel(self) -> list[float]:
        """Frequency of each ring in cycles per image pixel: rho / (2 stride)."""
        return [rho / (2 * self.tap.stride) for rho in self.spectrum.rho]

    def to_json(self) -> dict[str, Any]:
        """Return the numbers of the tap."""
        facts = {
            "model": self.model,
            "stride": self.tap.stride,
            "channels": self.tap.channels,
            "grid": list(self.grid),
        }
        return asdict(self.spectrum) | {"cycles_per_pixel": self.cycles_per_pixel} | facts


@dataclass(frozen=True)
class RadialSpectra:
    """One :class:`TapSpectrum` per tap and subject, in the order of the options.

    The student comes before the teacher.
    """

    source: str
    kind: str
    images: int
    cutoff: float
    taps: list[TapSpectrum]

    def to_json(self) -> dict[str, Any]:
        """Return the document of ``freqkd spectrum --json``."""
        facts = {
            "source": self.source,
            "kind": self.kind,
            "images": self.images,
            "cutoff": self.cutoff,
        }
        return facts | by_role((item.role, item.tap.name, item.to_json()) for item in self.taps)

    def write_csv(self, path: Path) -> None:
        """Write one row per tap, subject and ring."""
        columns = ("rho", "cycles_per_pixel", "power", "relative_log_amplitude", "cells")
        rows: list[list[Any]] = [["tap", "role", "model", "stride", *columns]]
        for item in self.taps:
            numbers = item.to_json()
            facts = [item.tap.name, item.role, item.model, item.tap.stride]
            for ring in zip(*(numbers[column] for column in columns), strict=True):
                rows.append([*facts, *(f"{value:.9g}" for value in ring)])
        write_csv(path, rows)
