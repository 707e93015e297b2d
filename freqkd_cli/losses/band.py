"""Compare one frequency band of a student tap with the same band of a teacher tap.

**What** ``d(N A, N B)``, mean over the batch, on the common grid. P is a trained 1x1 adapter, F a
radial mask of ``cutoff`` for ``band: low`` or ``high``. ``filter_side: both`` compares A = F P S
with B = F T, ``teacher`` P S with F T, ``student`` F P S with T. N standardises what is
compared, after the filter, by one rule on both sides: per sample and channel
``(x - mean) / max(s_c, 0.1 r)``. s_c is the standard deviation of the filtered (or whole) channel,
r the root mean square of all s_c. A map without signal counts as 0. ``normalize: none`` compares A
and B. ``mix`` is ``(1 - high_share) d_low + high_share d_high``, or, with ``mix: signal``, one
filter of that weighted gain. Distances:

- ``mse`` the mean square; ``log_mse`` log(1 + mse); ``l1`` the mean absolute difference in space;
  ``cosine`` 1 - the cosine of the flattened maps.
- ``relative`` = ``|A - B|^2 / (|F T|^2 + 1e-6 |T|^2)`` per sample, with one denominator for every
  filter side. Standardised channels have mean square 1, so there it equals ``mse``.
- ``represent: attention`` compares the unit-norm maps of the mean over channels of (N A)^2;
  ``attention_then_filter`` the mean of (N x)^2 as a single channel, filtered, at unit mean square.
  Neither has an adapter. For a high-pass the two maps are nearly unrelated.

The key ``attention`` weights each cell of the difference, which then needs an inverse transform:
``w = (1 + strength a / mean a) / (1 + strength)``, ``a = sqrt(mean over channels of (F_a T)^2)``.
Its band F_a is ``low``, ``high`` or ``mix``, whatever ``band`` is, with the same cutoff, mask and
``high_share``. It needs ``represent: feature``, and no cosine. The denominator of ``relative`` is
weighted alike, so a student of zeros keeps its value.

**Why** Deep layers carry layout, which is low-frequency, and decoders carry edges. The loss selects
which of the two the student copies. Each side reaches 0, per channel up to scale and mean: ``both``
at P S = T, ``teacher`` at P S = F T, ``student`` at F P S = T, so P S = T / M for a soft mask M, an
inverse filter, which an ideal mask does not have. A ``mix`` of one side needs ``mix: signal`` for
that: two losses pull a whole map to two bands. A standardised one-sided distance is divided by the
root of the band's share of energy in the teacher's channels, so all sides have gradients of one
size. With an ideal mask and ``normalize: none``, ``student`` has the gradient of ``both``.

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
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from freqkd_cli.errors import RecipeError
from freqkd_cli.features.loss import Grid, Loss, LossGroup
from freqkd_cli.features.taps import Tap
from freqkd_cli.losses._emphasis import Attention, Emphasis, Strength
from freqkd_cli.losses._emphasised_distance import EmphasisedDistance, check_combination
from freqkd_cli.losses._filter import Band, Border, Filter, Filtered, Table, terms_of
from freqkd_cli.losses._filter_distance import FilteredDistance, StudentRows, TeacherRows, stored
from freqkd_cli.losses._filter_tap import (
    Compared,
    Represent,
    attention_distance,
    attention_maps,
    tap_spectrum,
)
from freqkd_cli.losses._pair import PairLoss
from freqkd_cli.recipe.value_types import Positive, Share
from freqkd_cli.spectral.distances import Distance, standardised
from freqkd_cli.spectral.fourier import common_grid, resample
from freqkd_cli.spectral.masks import BandCells, Kind
from freqkd_cli.views.batch import Batch

GROUP: LossGroup = "frequency"

CUTOFF = 0.25
"""Nyquist units; a Gaussian of this keeps about 5 % of white noise."""


def build(
    *,
    student: str,
    teacher: str,
    band: Band = "low",
    cutoff: Positive | None = None,
    cutoff_cycles: Positive | None = None,
    mask: Kind = "gaussian",
    order: Annotated[int, Field(ge=1, le=10**9)] = 2,
    high_share: Share = 0.5,
    mix: Literal["loss", "signal"] = "loss",
    filter_side: Filtered = "both",
    distance: Distance = "relative",
    represent: Represent = "feature",
    normalize: Literal["channel", "none"] = "channel",
    border: Border = "none",
    adapter: bool = True,
    attention: Attention = "none",
    strength: Strength = 4.0,
) -> Loss:
    """Build a band loss; the top of the file explains every key.

    Args:
        student: tap of the student.
        teacher: tap of the teacher.
        band: which frequencies are compared; mix is a weighted sum of both bands.
        cutoff: of the filter, in Nyquist units of the common grid; the default is 0.25.
        cutoff_cycles: the same in cycles per image pixel; give one of the two.
        mask: shape of the filter.
        order: of a Butterworth mask.
        high_share: share of the high band in a mix, from 0 to 1.
        mix: losses of both bands are mixed, or the gain of one filter.
        filter_side: side that is filtered; the other one is compared whole.
        distance: of the compared maps.
        represent: compare the maps themselves, or attention maps of them.
        normalize: channel standardises every channel of both sides after the filter.
        border: what is done at the image border before the transform.
        adapter: bring the student to the teacher's channels by a trained 1x1 convolution.
        attention: band of the teacher that gives cells their weight; none weights all alike.
        strength: of that weighting; 0 = none.

    Raises:
        RecipeError: both ``cutoff`` and ``cutoff_cycles`` are given, or what is compared has no
            cells that ``attention`` could weight.
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
    emphasis = Emphasis(attention, cutoff or 0.0, mask, high_share, strength)
    check_combination(emphasis, represent, distance)
    return BandLoss(student, teacher, filter, compared, emphasis)


class BandLoss(PairLoss):
    """Made by :func:`build`.

    The target is the teacher's orthonormal spectrum as rows of real numbers, ``spectrum``
    ``[B, C, n]``, where n leaves out the bins that the filter drops, if they are most of them.
    Standardised as a whole, it comes with ``deviation`` ``[B, terms, C]``, what the filtered rows
    are divided by. Otherwise ``outside`` ``[B]`` is the root of the mean energy in dropped bins.
    For ``represent: attention`` it is the map of each term, ``attention`` ``[B, terms, h * w]``.
    The key ``attention`` adds ``emphasis`` ``[B, h, w]``, of mean 1 over inside cells, and
    ``energy`` ``[B, terms]``, the mean square of the teacher's band under these weights over that
    without.
    """

    target_version = 2
    target_arguments = (
        *("teacher", "band", "cutoff", "cutoff_cycles", "mask", "order", "high_share", "mix"),
        *("filter_side", "represent", "normalize", "border", "attention"),
    )

    def __init__(
        self, student: str, teacher: str, filter: Filter, compared: Compared, emphasis: Emphasis
    ) -> None:
        adapted = compared.adapter and compared.represent == "feature"
        super().__init__(student, teacher, adapted=adapted)
        self.filter, self.compared, self.emphasis = filter, compared, emphasis

    def start(self, student: Mapping[str, Tap], teacher: Mapping[str, Tap], classes: int) -> None:
        super().start(student, teacher, classes)
        if self.compared.cutoff_cycles is not None:
            cutoff = 2.0 * self.stride * self.compared.cutoff_cycles
            self.filter = replace(self.filter, cutoff=cutoff)
            self.emphasis = replace(self.emphasis, cutoff=cutoff)
        if self.compared.represent == "feature" and not self.compared.adapter:
            self.require_same_channels(student[self.student], teacher[self.teacher])

    def check_grids(self, student: Mapping[str, Grid], teacher: Mapping[str, Grid]) -> None:
        assert self.stride, "start() comes first: the stride turns cycles per pixel into Nyquist"
        self.filter.check(*self._place(student, teacher))

    def band_cells(
        self, student: Mapping[str, Grid], teacher: Mapping[str, Grid]
    ) -> tuple[BandCells, ...]:
        return self.filter.cells(*self._place(student, teacher), self.emphasis.bands)

    def _place(
        self, student: Mapping[str, Grid], teacher: Mapping[str, Grid]
    ) -> tuple[Grid, str, str, float]:
        """Return the common grid, the taps in words, and the key and unit of the cutoff."""
        grid = common_grid(student[self.student], teacher[self.teacher])
        by_cycles = self.compared.cutoff_cycles is not None
        key, unit = ("cutoff_cycles", 0.5 / self.stride) if by_cycles else ("cutoff", 1.0)
        return grid, f"student {self.student!r} and teacher {self.teacher!r}", key, unit

    def target(
        self, teacher: Mapping[str, Tensor], batch: Batch, grids: Mapping[str, Grid]
    ) -> dict[str, Tensor]:
        x, grid = teacher[self.teacher].detach(), self.grid(grids[self.student], batch)
        with torch.autocast(x.device.type, enabled=False):
            if self.compared.represent == "attention":
                filtered = self.compared.filter_side != "student"
                return {"attention": self._attention_maps(x, grid, filtered)}
            rows, table, size = self._spectrum(x, grid)
            target = stored(rows, table, size)
            if self.emphasis.used:
                x = resample(x, grid)
                x = standardised(x) if self.compared.standardise else x
                relative = self.emphasis.relative(x, batch, self.filter.order)
                target |= self._emphasised(table).target(relative, target)
            return target

    def forward(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int
    ) -> Tensor:
        x = student[self.student]
        grid = self.grid((x.shape[-2], x.shape[-1]), batch)
        with torch.autocast(x.device.type, enabled=False):
            if self.compared.represent == "attention":
                maps = self._attention_maps(x, grid, self.compared.filter_side != "teacher")
                terms, teacher = self.filter.terms, self.fitted(target["attention"], maps)
                return attention_distance(self.compared.distance, terms, maps, teacher)
            rows, table, size = self._spectrum(x, grid)
            student_rows = StudentRows(table.picked(rows), self.adapter, size)
            spectrum = self.fitted(target["spectrum"], student_rows.rows)
            teacher_rows = TeacherRows.of(target | {"spectrum": spectrum})
            if self.emphasis.used:
                names = ("emphasis", "energy")
                weights = [self.emphasis.weights(target[n], rows.dtype) for n in names]
                return self._emphasised(table).weighted(student_rows, teacher_rows, *weights)
            distance = FilteredDistance(self.compared.distance, self.compared.filter_side, table)
            return distance(student_rows, teacher_rows)

    def _emphasised(self, table: Table) -> EmphasisedDistance:
        how = self.compared.distance, self.compared.filter_side
        return EmphasisedDistance(*how, table, self.filter)

    def _spectrum(self, x: Tensor, grid: Grid) -> tuple[Tensor, Table, Tensor | None]:
        kind, standardise = self.compared.represent, self.compared.standardise
        return tap_spectrum(x, grid, self.filter, kind != "feature", standardise=standardise)

    def _attention_maps(self, x: Tensor, grid: Grid, filtered: bool) -> Tensor:
        x = resample(x, grid)
        return attention_maps(x, self.filter, filtered, standardise=self.compared.standardise)
