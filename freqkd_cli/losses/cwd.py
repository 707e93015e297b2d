"""Channel-wise distillation: where in the image each class, or each feature channel, is strong.

**What** ``tau^2 / (K B) * sum over images and classes of KL(p_T || p_S)``, where ``p`` is the
softmax over the cells of one class's logits, ``softmax over x of z[c, x] / tau + log w[x]``. The
weights of cells (``attention``, ``only_where_right``, see ``logit_kl``; 1 by default) belong to
both distributions, so the minimum stays at S = T. Cells of weight 0 are in neither.
With feature taps as ``student`` and ``teacher``, channels take the place of classes. A trained 1x1
adapter brings the student to the teacher's channels where they differ.

**Why** Each class has one unit of mass to place. So a small object's class weighs as much as that
of the road, and the loss compares places, not the classes of a place.

**Shapes and units** ``logits`` ``[B, K, h, w]`` or taps ``[B, C, h, w]``, resized bilinearly to the
compared grid. The softmax is over cells inside the image. Nats. The target is that of ``logit_kl``;
of features it is the teacher's map.

**Source** Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021
(arXiv 2011.13256), equations 3 and 4, with the temperature 4 of the paper; its loss weight for
logits is 3, that for features 50. On features it equals ``losses/cwd.py`` of winycg/CIRKD at
dab64db, whose weight beside a SegFormer is 5. Departures: padded cells do not count; the compared
grid is the teacher's by default; with an adapter the sum is divided by the channels that are
compared, where that code divides by the student's.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from freqkd_cli.features.loss import Grid, Loss, LossGroup
from freqkd_cli.losses._class_scores import CellWeights, ComparedGrid, divergence_over_cells
from freqkd_cli.losses._tap_scores import TapScores
from freqkd_cli.recipe.value_types import Positive
from freqkd_cli.registry import flattened
from freqkd_cli.views.batch import Batch

GROUP: LossGroup = "class scores"


@flattened
def build(
    *,
    student: str = "logits",
    teacher: str = "logits",
    temperature: Positive = 4.0,
    grid: ComparedGrid = "teacher",
    weighting: CellWeights,
) -> Loss:
    """Build channel-wise distillation; the top of the file explains every key.

    Args:
        student: tap of the student; logits compares class scores.
        teacher: tap of the teacher, likewise.
        temperature: of the softmax over cells.
        grid: side whose grid is used.

    Raises:
        RecipeError: the keys do not fit features.
    """
    return ChannelWise((student, teacher), temperature, grid, weighting)


class ChannelWise(TapScores):
    """Made by :func:`build`."""

    def count(self, batch: Batch, grids: Mapping[str, Grid]) -> float:
        return float(len(batch))

    def forward(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int
    ) -> Tensor:
        with torch.autocast(student[self.student].device.type, enabled=False):
            scores = self.scores(student, target, batch)
            return divergence_over_cells(
                scores.student, scores.teacher, scores.weights, self.temperature
            )
