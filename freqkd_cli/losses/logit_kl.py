"""Kullback-Leibler divergence from the teacher's class scores to the student's, pixel by pixel.

**What** ``tau^2 * mean over cells of w KL(softmax(z_T / tau) || softmax(z_S / tau))``, w = 1 by
default. ``grid: teacher`` resizes the student's logits to the teacher's grid, as scoring resizes
them to the labels. ``grid: student`` resizes the teacher's to the student's pre-upsampling grid.
This loses what is thinner than its cells (strides 4 and 8 on scenes: 2.3 mIoU less, and less than
without this loss). ``attention: high`` weights each cell by how much the teacher's prediction
changes there: ``p = softmax(z_T / tau)`` on the compared grid, ``a = sqrt(sum over classes of
(F_high p)^2)``, ``w = (1 + strength a / mean a) / (1 + strength)``, the mean over inside cells of
the sample. The weights have mean 1, so the loss weight keeps its meaning. ``attention: low`` uses
the low band, ``mix`` the gain ``(1 - high_share) low + high_share high``. ``only_where_right``
gives weight 0 to labelled cells where the teacher's most likely class is not the label.

**Why** The teacher's probabilities of all classes hold more information than one label. They exist
in void regions too, where there is no label. High attention moves the student's effort to edges and
thin objects.

**Shapes and units** ``logits`` ``[B, K, h, w]``; one side's are resized bilinearly (align_corners
False) to the other's grid. The mean is over cells whose centre lies inside the image
(``batch.valid``), void labels and cells of weight 0 included. Nats. A cache of targets holds the
teacher's logits on the chosen grid. The teacher's own grid has 4 times the cells of a student of
twice its stride. With attention it also holds ``a / mean a`` ``[B, h, w]``. ``cutoff`` of the
radial ``mask`` is in Nyquist units of the compared grid.

**Source** Hinton, Vinyals and Dean (arXiv 1503.02531) in the pixel-wise form of CIRKD
(losses/kd.py: tau 1, weight 1, rows are pixels). Departures: padded cells do not count; the default
grid is the finer one, where CIRKD compares on the student's. Frequency attention is this project's.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from freqkd_cli.features.loss import Loss, LossGroup
from freqkd_cli.losses._class_scores import CellWeights, ClassScores, ComparedGrid
from freqkd_cli.recipe.value_types import Positive
from freqkd_cli.registry import flattened
from freqkd_cli.views.batch import Batch

GROUP: LossGroup = "class scores"


@flattened
def build(
    *, temperature: Positive = 1.0, grid: ComparedGrid = "teacher", weighting: CellWeights
) -> Loss:
    """Build logit distillation; the top of the file explains every key.

    Args:
        temperature: of both softmax functions.
        grid: side whose grid is used.
    """
    return LogitKL(temperature, grid, weighting)


class LogitKL(ClassScores):
    """Made by :func:`build`."""

    def forward(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int
    ) -> Tensor:
        with torch.autocast(student["logits"].device.type, enabled=False):
            scores = self.scores(student, target, batch)
            log_student = F.log_softmax(scores.student / self.temperature, dim=1)
            log_teacher = F.log_softmax(scores.teacher / self.temperature, dim=1)
            divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True)
            return scores.mean(divergence.sum(1)) * self.temperature**2
