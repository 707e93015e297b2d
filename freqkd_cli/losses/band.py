"""Compare one frequency band of a student tap with the same band of a teacher tap.

**What** ``d(F S, F T)`` after both sides are brought to the common grid and, by default, standardised per channel. ``band: low`` or
``high`` filters with a radial mask of ``cutoff``; ``mix`` is ``(1 - high_share) d_low + high_share d_high``, or with ``mix: signal`` one
filter of that weighted gain. ``filter_side`` leaves the other side whole. ``relative = |A - B|^2 / (|F T|^2 + 1e-6 |T|^2)`` per sample,
the same denominator for every side; ``mse`` the mean square; ``l1`` the mean absolute difference in space; ``cosine`` 1 - the cosine of
the flattened maps. Mean over the batch. ``represent: attention`` compares unit-norm maps of the mean over channels of (F x)^2,
``attention_then_filter`` filters the unit-norm map of the mean of x^2; neither has an adapter. They are different maps, nearly unrelated
for a high-pass.

**Why** Deep layers carry layout, which is low-frequency, and decoders carry edges: the student is told which of the two to copy. With a
soft mask, ``filter_side: student`` has T / M as its optimum, an inverse filter, and ``teacher`` has M T; with an ideal mask ``student``
has the gradient of ``both``.

**Shapes and units** taps ``[B, C, h, w]``, compared on the smaller grid per axis; cutoff in Nyquist units of that grid, or
``cutoff_cycles`` in cycles per image pixel (= cutoff / (2 stride)). Padded cells take part on both sides alike, since a transform needs a
full map. ``border: hann`` weights both maps with a window, ``reflect`` continues both by their mirror images (and compares on the
continuation).

**Source** This project's first idea, filtered feature distillation; its learned form is FAM-KD (arXiv 2403.05894), here ``fam``.
Standardisation after NFD (arXiv 2207.05256), attention maps after AT (arXiv 1612.03928). Departures: radial masks, symmetric about DC,
instead of a box; a relative distance, because high bands hold so little energy that a plain mean square would vanish beside low ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from freqkd_cli.errors import RecipeError
from freqkd_cli.features.adapter import Adapter
from freqkd_cli.features.loss import Grid, Loss
from freqkd_cli.features.taps import Tap
from freqkd_cli.losses._filter import Band, Border, Filter, Table
from freqkd_cli.losses._pair import PairLoss
from freqkd_cli.losses._rows import Comparison, Distance, Filtered, Side, Weights, energy
from freqkd_cli.losses._sides import Sides, attention
from freqkd_cli.spectral.fourier import common_grid, half_spectrum, widened
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
    """A band loss; see the top of the file for every key.

    Raises:
        RecipeError: both ``cutoff`` and ``cutoff_cycles`` are given.
    """
    if cutoff is not None and cutoff_cycles is not None:
        raise RecipeError(
            "band: two cutoffs",
            got=f"cutoff {cutoff} and cutoff_cycles {cutoff_cycles}",
            need="one",
            tip="drop cutoff_cycles",
        )
    if cutoff_cycles is None and cutoff is None:
        cutoff = CUTOFF
    # Only where both sides are filtered are bins without gain of no interest; attention squares a map, so it needs all of them.
    sparse = filter_side == "both" and represent != "attention"
    filter = Filter(
        mask, cutoff or 0.0, order, Filter.terms_of(band, high_share, mix), border, sparse
    )
    how = How(filter_side, distance, represent, cutoff_cycles, adapter)
    return BandLoss((student, teacher), filter, Sides(standardised=normalize == "channel"), how)


@dataclass(frozen=True)
class How:
    """What is compared, beside the filter."""

    side: Filtered
    distance: Distance
    represent: Represent
    cutoff_cycles: float | None
    adapter: bool


class BandLoss(PairLoss):
    """Made by :func:`build`.

    The target is the teacher's spectrum as rows of real numbers (``spectrum`` ``[B, C, n]``; n counts only the bins that the filter
    keeps where it drops most of them, and ``outside`` ``[B]`` is then the root of the mean energy in the others), or the unit-norm
    attention map of each term (``attention`` ``[B, terms, h * w]``). Denominators are made of the target as stored, so rounding it
    cannot tear them apart.
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

    def __init__(self, taps: tuple[str, str], filter: Filter, sides: Sides, how: How) -> None:
        super().__init__(*taps, adapted=how.adapter and how.represent == "feature")
        self.filter, self.sides, self.how = filter, sides, how

    def start(self, student: Mapping[str, Tap], teacher: Mapping[str, Tap], classes: int) -> None:
        super().start(student, teacher, classes)
        if self.how.cutoff_cycles is not None:
            self.filter = replace(self.filter, cutoff=2.0 * self.stride * self.how.cutoff_cycles)
        if self.how.represent == "feature" and not self.how.adapter:
            self.same_channels(student[self.student], teacher[self.teacher])

    def check_grids(self, student: Mapping[str, Grid], teacher: Mapping[str, Grid]) -> None:
        assert self.stride, (
            "start() comes first: it knows the stride that turns cycles per pixel into Nyquist units"
        )
        grid, filter = common_grid(student[self.student], teacher[self.teacher]), self.filter
        check_band(
            grid,
            filter.kind,
            filter.cutoff,
            filter.order,
            f"student {self.student!r} and teacher {self.teacher!r}",
        )

    def target(
        self, teacher: Mapping[str, Tensor], batch: Batch, grids: Mapping[str, Grid]
    ) -> dict[str, Tensor]:
        x, grid = teacher[self.teacher].detach(), self.grid(grids[self.student], batch)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            if self.how.represent == "attention":
                return {"attention": self._attention(x, grid, filtered=self.how.side != "student")}
            rows = self._side(x, grid).finished()
            table = self.filter.table(grid, x)
            if table.kept is None:
                return {"spectrum": rows.div_(table.weights.unit)}
            whole = self.filter.bordered(self._map(x, grid)).square().sum((1, 2, 3))
            left = (whole - energy(rows, table.weights.count).sum(1)).clamp(min=0.0)
            return {
                "spectrum": rows.div_(table.weights.unit),
                "outside": (left / (rows.shape[1] * table.weights.cells)).sqrt(),
            }

    def forward(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int
    ) -> Tensor:
        x = student[self.student]
        grid = self.grid((x.shape[-2], x.shape[-1]), batch)
        with torch.autocast(x.device.type, enabled=False):
            if self.how.represent == "attention":
                return self._attention_distance(
                    self._attention(x, grid, filtered=self.how.side != "teacher"),
                    target["attention"],
                )
            ours = self._side(x, grid, self.adapter)
            return self._distance(
                ours,
                self.fits(ours, target["spectrum"]),
                self.filter.table(grid, x),
                target.get("outside"),
            )

    def _side(self, x: Tensor, grid: Grid, adapter: Adapter | None = None) -> Side:
        if self.how.represent == "feature":
            return self.sides.in_frequency(x, grid, self.filter, adapter)
        return Side(
            self.filter.table(grid, x).rows(half_spectrum(self.filter.bordered(self._map(x, grid))))
        )

    def _map(self, x: Tensor, grid: Grid) -> Tensor:
        """What is transformed, before the border: the map, or its attention."""
        x = self.sides.map(x, grid)
        return x if self.how.represent == "feature" else attention(x)

    def _distance(self, ours: Side, theirs: Tensor, table: Table, outside: Tensor | None) -> Tensor:
        compare = Comparison(self.how.distance, self.how.side, table.weights)
        if self.how.distance == "l1":
            rows, gains = ours.finished(), table.weights.gains
            return sum(
                share * table.map(compare.difference(rows, theirs, gain)).abs().mean()
                for share, gain in gains
            )
        if outside is not None:
            outside = widened(outside).square() * (theirs.shape[1] * table.weights.cells)
        return compare(ours, theirs, outside)

    def _attention(self, x: Tensor, grid: Grid, *, filtered: bool) -> Tensor:
        """Unit-norm attention maps, ``[B, terms, h * w]``; a side that stays whole has the same map in every term."""
        x = self.filter.bordered(self.sides.map(x, grid))
        table = self.filter.table(grid, x)
        maps = [m for _, m in table.filtered(x)] if filtered else [x] * len(table.weights.gains)
        return torch.cat([attention(m).flatten(2) for m in maps], dim=1)

    def _attention_distance(self, ours: Tensor, target: Tensor) -> Tensor:
        theirs, total = self.fits(Side(ours), target), ours.new_zeros(())
        compare = Comparison(self.how.distance, "both", Weights.of_cells(ours))
        for i, (share, _) in enumerate(self.filter.terms):
            a, b = ours[:, i : i + 1], theirs[:, i : i + 1]
            total = total + share * (
                (a - b).abs().mean() if self.how.distance == "l1" else compare(Side(a), b)
            )
        return total
