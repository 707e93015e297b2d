"""Compare how far each cell is from the mean of its class: intra-class feature variation.

**What** ``mean of (v(S) - v(T))^2`` over the cells of all images with a label. ``v(x)`` of a cell
is the cosine of its channels with the mean of the cells of its class in the same image. Void cells
count as 0.

**Why** The student copies how much the cells of one class vary, and where, without equal channels
or values.

**Shapes and units** Taps ``[B, C, h, w]`` and labels ``[B, H, W]``. Both sides are resampled to the
smaller grid per axis in frequency space. The class of a cell is that of its top left pixel, as in
the authors' code. Values lie in [0, 4]. A cache of targets holds ``v(T)``, ``[B, 1, h * w]``.

**Source** Wang et al., "Intra-class Feature Variation Distillation for Semantic Segmentation",
ECCV 2020. Equal to the authors' code (YukangWang/IFVD at 950a7a5, ``utils/criterion.py``, loss
weight 200) and to ``losses/ifvd.py`` of winycg/CIRKD at dab64db (loss weight 20). Departure: a cell
without any activation has no gradient, where the code divides by 1e-8. The adversarial term that
both add is left out.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from freqkd_cli.features.loss import Grid, Loss, LossGroup
from freqkd_cli.features.taps import Tap
from freqkd_cli.losses._cells import cell_labels, one_hot
from freqkd_cli.losses._pair import PairLoss
from freqkd_cli.spectral.distances import ratio, root
from freqkd_cli.spectral.fourier import resample
from freqkd_cli.views.batch import Batch

GROUP: LossGroup = "relations"


def build(*, student: str, teacher: str) -> Loss:
    """Build intra-class feature variation between two taps; the top of the file explains it.

    Args:
        student: tap of the student.
        teacher: tap of the teacher.
    """
    return ClassVariation(student, teacher)


class ClassVariation(PairLoss):
    """Made by :func:`build`. Its target is ``variation`` ``[B, 1, h * w]``, 0 on void."""

    needs_labels = True
    target_arguments = ("teacher",)

    def __init__(self, student: str, teacher: str) -> None:
        super().__init__(student, teacher, adapted=False)
        self.classes = 0

    def start(self, student: Mapping[str, Tap], teacher: Mapping[str, Tap], classes: int) -> None:
        super().start(student, teacher, classes)
        self.classes = classes

    def variation(self, x: Tensor, grid: Grid, batch: Batch) -> Tensor:
        """Return the cosine of each cell with the mean of its class, ``[B, 1, h * w]``."""
        with torch.autocast(x.device.type, enabled=False):
            rows = resample(x, grid).flatten(2)
            cells = one_hot(cell_labels(batch, grid, "ifvd"), self.classes, rows.dtype)
            means = rows @ cells.mT / cells.sum(2).clamp(min=1)[:, None]
            products = ((means.mT @ rows) * cells).sum(1, keepdim=True)
            norms = root(means.square().sum(1, keepdim=True)) @ cells
            return ratio(products, norms * root(rows.square().sum(1, keepdim=True)))

    def target(
        self, teacher: Mapping[str, Tensor], batch: Batch, grids: Mapping[str, Grid]
    ) -> dict[str, Tensor]:
        grid = self.grid(grids[self.student], batch)
        return {"variation": self.variation(teacher[self.teacher].detach(), grid, batch)}

    def forward(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int
    ) -> Tensor:
        x = student[self.student]
        own = self.variation(x, self.grid((x.shape[-2], x.shape[-1]), batch), batch)
        squares = F.mse_loss(own, self.fitted(target["variation"], own), reduction="none")
        # Images without labels have no variation on either side.
        return squares.mean((1, 2)).sum() / batch.has_label.sum().clamp(min=1)

    def count(self, batch: Batch, grids: Mapping[str, Grid]) -> float:
        """Return the number of images with a label."""
        return 0.0 if batch.labels is None else float(batch.has_label.sum())
