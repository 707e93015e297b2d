"""Compare one frequency band of a student tap with the same band of a teacher tap.

**What** ``d(F S, F T)`` after both sides are brought to the common grid and, by default,
standardised per channel; mean over the batch. ``band: low`` or ``high`` filters with a radial mask
of ``cutoff``. ``mix`` is ``(1 - high_share) d_low + high_share d_high``, or, with ``mix: signal``,
one filter of that weighted gain. ``filter_side`` leaves the other side whole. Distances:

- ``relative`` = ``|A - B|^2 / (|F T|^2 + 1e-6 |T|^2)`` per sample, with one denominator for every
  filter side; ``mse`` the mean square; ``l1`` the mean absolute difference in space; ``cosine`` 1 -
  the cosine of the flattened maps.
- ``represent: attention`` compares unit-norm maps of the mean over channels of (F x)^2;
  ``attention_then_filter`` filters the unit-norm map of the mean of x^2. Neither has an adapter.
  For a high-pass the two maps are nearly unrelated.

**Why** Deep layers carry layout, which is low-frequency, and decoders carry edges. The loss selects
which of the two the student copies. With a soft mask, ``filter_side: student`` has T / M as its
optimum, an inverse filter, and ``teacher`` has M T. With an ideal mask ``student`` has the gradient
of ``both``.

**Shapes and units** Taps ``[B, C, h, w]``, compared on the smaller grid per axis. The cutoff is in
Nyquist units of that grid; ``cutoff_cycles`` is in cycles per image pixel (= cutoff / (2 stride)).
Padded cells take part on both sides alike, since a transform needs a full map. ``border: hann``
multiplies both maps with a window; ``reflect`` continues both by their mirror images and compares
the continuation.

**Source** This project's first idea, filtered feature distillation. Its learned form is FAM-KD
(arXiv 2403.05894), here ``fam``. Standardisation after NFD (arXiv 2207.05256), attention maps after
AT (arXiv 1612.03928). Departures: radial masks, symmetric about DC, instead of a box; a relative
distance, because a plain mean square of high bands would vanish beside that of low ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from freqkd_cli.errors import RecipeError
from freqkd_cli.features.adapter import Adapter, adapted, standardising
from freqkd_cli.features.loss import Grid, Loss
from freqkd_cli.features.taps import Tap
from freqkd_cli.losses._filter import Band, Border, Filter, Filtered, Table, terms_of
from freqkd_cli.losses._filter_distance import FilteredDistance, StudentRows
from freqkd_cli.losses._pair import PairLoss
from freqkd_cli.spectral.distances import (
    Distance,
    attention,
    distance,
    energy,
    standardised,
)
from freqkd_cli.spectral.fourier import (
    as_rows,
    common_grid,
    half_spectrum,
    refit,
    resample,
)
from freqkd_cli.spectral.masks import Kind, check_band
from freqkd_cli.views.batch import Batch

Represent = Literal["feature", "attention", "attention_then_filter"]

CUTOFF = 0.25
"""Nyquist units; a Gaussian of this keeps about 5 % of white noise."""


def build(
    *,
    student: str,
    teacher: str,
    band: Band = "low",
    cutoff: Annotated[float, Field(gt=0)] | None = None,
    cutoff_cycles: Annotated[float, Field(gt=0)] | None = None,
    mask: Kind = "gaussian",
    order: Annotated[int, Field(ge=1)] = 2,
    high_share: Annotated[float, Field(ge=0, le=1)] = 0.5,
    mix: Literal["loss", "signal"] = "loss",
    filter_side: Filtered = "both",
    distance: Distance = "relative",
    represent: Represent = "feature",
    normalize: Literal["channel", "none"] = "channel",
    border: Border = "none",
    adapter: bool = True,
) -> Loss:
    """Build a band loss; the top of the file explains every key.

    Raises:
        RecipeError: both ``cutoff`` and ``cutoff_cycles`` are given.
    """
    if cutoff is not None and cutoff_cycles is not None:
        raise RecipeError(
            "band: two cutoffs",
            got=f"cutoff {cutoff} and cutoff_cycles {cutoff_cycles}",
            need="one",
            tip="remove cutoff_cycles",
            key="cutoff_cycles",
        )
    if cutoff_cycles is None and cutoff is None:
        cutoff = CUTOFF
    # Bins without gain matter unless both sides are filtered; attention squares a whole map.
    sparse = filter_side == "both" and represent != "attention"
    terms = terms_of(band, high_share, mix)
    filter = Filter(mask, cutoff or 0.0, order, terms, border, sparse)
    standardise = normalize == "channel"
    compared = Compared(filter_side, distance, represent, cutoff_cycles, standardise, adapter)
    return BandLoss(student, teacher, filter, compared)


@dataclass(frozen=True)
class Compared:
    """What is compared, beside the filter; every field is a key of the recipe."""

    filter_side: Filtered
    distance: Distance
    represent: Represent
    cutoff_cycles: float | None
    standardise: bool
    adapter: bool


class BandLoss(PairLoss):
    """Made by :func:`build`.

    The target is the teacher's orthonormal spectrum as rows of real numbers, ``spectrum``
    ``[B, C, n]``. Where the filter drops most bins, n counts the others alone, and ``outside``
    ``[B]`` is the root of the mean energy in the dropped ones. For ``represent: attention`` it is
    the unit-norm attention map of each term, ``attention`` ``[B, terms, h * w]``.
    Denominators are made of the target as stored, so rounding it changes both alike.
    """

    target_arguments = (
        "teacher",
        "band",
        "cutoff",
        "cutoff_cycles",
        "mask",
        "order",
        "high_share",
        "mix",
        "filter_side",
        "represent",
        "normalize",
        "border",
    )

    def __init__(self, student: str, teacher: str, filter: Filter, compared: Compared) -> None:
        adapted = compared.adapter and compared.represent == "feature"
        super().__init__(student, teacher, adapted=adapted)
        self.filter, self.compared = filter, compared

    def start(self, student: Mapping[str, Tap], teacher: Mapping[str, Tap], classes: int) -> None:
        super().start(student, teacher, classes)
        if self.compared.cutoff_cycles is not None:
            cutoff = 2.0 * self.stride * self.compared.cutoff_cycles
            self.filter = replace(self.filter, cutoff=cutoff)
        if self.compared.represent == "feature" and not self.compared.adapter:
            self.require_same_channels(student[self.student], teacher[self.teacher])

    def check_grids(self, student: Mapping[str, Grid], teacher: Mapping[str, Grid]) -> None:
        assert self.stride, "start() comes first: the stride turns cycles per pixel into Nyquist"
        grid, filter = common_grid(student[self.student], teacher[self.teacher]), self.filter
        taps = f"student {self.student!r} and teacher {self.teacher!r}"
        check_band(
            grid,
            filter.kind,
            filter.cutoff,
            filter.order,
            taps,
            key="cutoff" if self.compared.cutoff_cycles is None else "cutoff_cycles",
        )

    def target(
        self, teacher: Mapping[str, Tensor], batch: Batch, grids: Mapping[str, Grid]
    ) -> dict[str, Tensor]:
        x, grid = teacher[self.teacher].detach(), self.grid(grids[self.student], batch)
        with torch.autocast(x.device.type, enabled=False):
            if self.compared.represent == "attention":
                filtered = self.compared.filter_side != "student"
                return {"attention": self._attention(x, grid, filtered)}
            table = self.filter.table(grid, x)
            whole, scale = self._rows(x, grid, table, None)
            whole = adapted(whole, None, scale)
            rows = table.picked(whole)
            if table.kept is None:
                return {"spectrum": rows / table.unit}
            left = (energy(whole, table.whole) - energy(rows, table.count)).sum(1).clamp(min=0.0)
            outside = (left / (rows.shape[1] * table.cells)).sqrt()
            return {"spectrum": rows / table.unit, "outside": outside}

    def forward(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int
    ) -> Tensor:
        x = student[self.student]
        grid = self.grid((x.shape[-2], x.shape[-1]), batch)
        with torch.autocast(x.device.type, enabled=False):
            if self.compared.represent == "attention":
                maps = self._attention(x, grid, self.compared.filter_side != "teacher")
                return self._attention_distance(maps, self.fitted(target["attention"], maps))
            table = self.filter.table(grid, x)
            whole, scale = self._rows(x, grid, table, self.adapter)
            rows = table.picked(whole)
            distance = FilteredDistance(self.compared.distance, self.compared.filter_side, table)
            teacher = self.fitted(target["spectrum"], rows)
            return distance(StudentRows(rows, self.adapter, scale), teacher, target.get("outside"))

    def _rows(
        self, x: Tensor, grid: Grid, table: Table, adapter: Adapter | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the spectrum of the tap's own channels, and what :func:`adapted` multiplies with.

        The adapter and the transform commute, so the student's few channels are transformed and
        the adapter comes last. A channel's variance follows from its spectrum (Parseval).
        """
        if self.compared.represent != "feature":
            x = self.filter.bordered(attention(self._map(x, grid)))
            return as_rows(half_spectrum(x)), None
        standardise = self.compared.standardise
        if self.filter.border == "none":
            spectrum = refit(half_spectrum(x, centred=standardise), x.shape[-1], grid)
            whole = rows = as_rows(spectrum)
            weight = table.whole / table.cells
        else:
            x = resample(x, grid)
            x = x - x.mean((-2, -1), keepdim=True) if standardise else x
            rows, whole = as_rows(half_spectrum(self.filter.bordered(x))), x.flatten(2)
            weight = torch.full_like(whole[0, 0], 1.0 / whole.shape[-1])
        return rows, standardising(whole, adapter, weight) if standardise else None

    def _map(self, x: Tensor, grid: Grid) -> Tensor:
        """Return the tap's map on the common grid, ``[B, C, *grid]``."""
        x = resample(x, grid)
        return standardised(x) if self.compared.standardise else x

    def _attention(self, x: Tensor, grid: Grid, filtered: bool) -> Tensor:
        """Return the unit-norm attention map of each term, ``[B, terms, h * w]``.

        A side that stays whole has the same map in every term.
        """
        x = self.filter.bordered(self._map(x, grid))
        maps = self.filter.table(grid, x).filtered(x) if filtered else [x] * len(self.filter.terms)
        return torch.cat([attention(m).flatten(2) for m in maps], dim=1)

    def _attention_distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean distance of attention maps ``[B, terms, h * w]``, weighted by share."""
        total, kind = student.new_zeros(()), self.compared.distance
        for number, (share, _) in enumerate(self.filter.terms):
            part = slice(number, number + 1)
            total = total + share * distance(kind, student[:, part], teacher[:, part])
        return total
