"""Compare class scores at edges and in bodies by two rules: boundary-privileged distillation.

**What** ``body * L_B + edge * L_E``. M_c in [0, 1] is the share of a cell's pixels that are near an
edge of class c: within ``radius`` pixels (a square) there are pixels of c and others.

- ``L_E = sum over classes of alpha / n_c * sum over cells of M_c phi``, mean over images. phi is
  tau^2 KL at a cell, from softmax(M z_T / tau) to softmax(M z_S / tau), and n_c = max(1, sum of
  M_c).
- ``L_B = tau^2 / K * sum over classes of KL``, mean over images. It is ``cwd`` on (1 - M) z:
  softmax over the cells of one class.

**Why** A small student is unsure at edges, where it has to separate few classes at single pixels.
Inside regions the shape of a class matters instead.

**Shapes and units** ``logits`` ``[B, K, h, w]``; edges come from masks ``[B, H, W]``. Nats.
``edges: labels`` reads the ground truth, and the teacher's prediction for images without any label.
``edges: prediction`` always reads the prediction (the most likely class, logits resized to the
image). A border with void pixels is an edge; void pixels are none. Padded cells take no part. The
edges belong to the target, so a cached step does not compute them.

**Source** BPKD (arXiv 2306.08075). Its repository AkideLiu/BPKD (83014fa) has no training code.
Equal to the formula as written out in src/distillers/bpkd.py at 3109a51 of
lamnmh05/Semantic-Segmentation-with-Knowledge-Distilled-SegFormer. The defaults are those of that
code: body 20, edge 50, alpha 2, temperature 4, a trimap of 7 pixels. Departures: the compared grid
is the teacher's by default, as in ``logit_kl``; that code resizes the teacher's logits (``grid:
student``). Images without labels have edges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from freqkd_cli.features.loss import Grid, Loss, LossGroup
from freqkd_cli.losses._class_scores import (
    CellWeights,
    ClassScores,
    ComparedGrid,
    divergence_over_cells,
    resized,
)
from freqkd_cli.losses._part_weights import require_a_part
from freqkd_cli.recipe.value_types import NotNegative, Positive
from freqkd_cli.registry import flattened
from freqkd_cli.views.batch import Batch

GROUP: LossGroup = "class scores"


BITS = 62
"""Classes in one int64; one more bit stands for all others and for void."""


@dataclass(frozen=True)
class Parts:
    """Recipe keys: the two parts and the edges.

    Attributes:
        body: weight of the part inside regions.
        edge: weight of the part at edges.
        alpha: weight of every class at edges.
        radius: of the edges in pixels; 3 is a trimap of 7 pixels.
        edges: edges of the labels, or of the teacher's prediction.
    """

    body: NotNegative = 20.0
    edge: NotNegative = 50.0
    alpha: Positive = 2.0
    radius: Annotated[int, Field(ge=1, le=10**9)] = 3
    edges: Literal["labels", "prediction"] = "labels"


@flattened
def build(*, temperature: Positive = 4.0, grid: ComparedGrid = "teacher", parts: Parts) -> Loss:
    """Build boundary-privileged distillation; the top of the file explains every key.

    Args:
        temperature: of both softmax functions.
        grid: side whose grid is used.

    Raises:
        RecipeError: both weights are 0.
    """
    require_a_part("bpkd", body=parts.body, edge=parts.edge)
    return BoundaryPrivileged(temperature, grid, parts)


class BoundaryPrivileged(ClassScores):
    """Made by :func:`build`.

    The target is the teacher's ``logits`` and the ``edges``, both ``[B, K, h, w]``.
    """

    def __init__(self, temperature: float, grid: ComparedGrid, parts: Parts) -> None:
        super().__init__(temperature, grid, CellWeights())
        self.parts = parts
        self.target_arguments = ("grid", "radius", "edges")
        if parts.edges == "labels":
            self.reads_classes_of_labels = ("edges", "prediction")

    def count(self, batch: Batch, grids: Mapping[str, Grid]) -> float:
        return float(len(batch))

    def target(
        self, teacher: Mapping[str, Tensor], batch: Batch, grids: Mapping[str, Grid]
    ) -> dict[str, Tensor]:
        target = super().target(teacher, batch, grids)
        logits = target["logits"]
        labels = self._labels(teacher["logits"].detach().float(), batch)
        grid = logits.shape[-2], logits.shape[-1]
        edges = edge_shares(labels, batch.valid, logits.shape[1], self.parts.radius, grid)
        return target | {"edges": edges.to(logits.dtype)}

    def _labels(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the classes that edges are between, ``[B, H, W]``, K and more for void."""
        predicted = resized(logits, (batch.images.shape[-2], batch.images.shape[-1])).argmax(1)
        if self.parts.edges == "prediction" or batch.labels is None:
            return predicted
        void = batch.labels == batch.ignore
        labels = batch.labels.masked_fill(void, logits.shape[1])
        return torch.where(void.flatten(1).all(1)[:, None, None], predicted, labels)

    def forward(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int
    ) -> Tensor:
        with torch.autocast(student["logits"].device.type, enabled=False):
            scores = self.scores(student, target, batch)
            edges = target["edges"].to(scores.student.dtype)
            total = scores.student.new_zeros(())
            if self.parts.edge > 0:
                total = total + self.parts.edge * self._edge(scores.student, scores.teacher, edges)
            if self.parts.body > 0:
                bodies = [z * (1.0 - edges) for z in (scores.student, scores.teacher)]
                body = divergence_over_cells(*bodies, scores.inside, self.temperature)
                total = total + self.parts.body * body
            return total

    def _edge(self, student: Tensor, teacher: Tensor, edges: Tensor) -> Tensor:
        tau = self.temperature
        logs = (F.log_softmax(z * edges / tau, dim=1) for z in (student, teacher))
        divergence = F.kl_div(*logs, reduction="none", log_target=True).sum(1, keepdim=True)
        share = edges / edges.sum((2, 3), keepdim=True).clamp(min=1.0)
        return self.parts.alpha * tau**2 * (divergence * share).sum() / len(edges)


def edge_shares(labels: Tensor, valid: Tensor, classes: int, radius: int, grid: Grid) -> Tensor:
    """Return the share of each cell's pixels that are near an edge of a class, ``[B, K, *grid]``.

    The classes near a pixel are bits of one number, so a dilation serves all of them.

    Args:
        labels: ``[B, H, W]``; numbers from K on are void.
        valid: ``[B, H, W]`` bool; pixels outside the image make no edge.
        radius: half the side of the square around a pixel, in pixels.
    """
    inside, shares = valid & (labels < classes), []
    for first in range(0, classes, BITS):
        number = min(BITS, classes - first)
        counted = (labels >= first) & (labels < first + number)
        words = (1 << torch.where(counted, labels - first, BITS)) * valid
        near = _dilated(words, radius)
        several = inside & ((near & (near - 1)) != 0)
        for bit in range(number):
            edges = ((near >> bit) & several).float()
            shares.append(F.adaptive_avg_pool2d(edges, tuple(grid)))
    return torch.stack(shares, dim=1)


def _dilated(words: Tensor, radius: int) -> Tensor:
    """Return the bitwise or of the square around each pixel, ``[B, H, W]``."""
    for axis in (1, 2):
        cells, joined = words.shape[axis], words.clone()
        for shift in range(1, min(radius, cells - 1) + 1):
            kept = cells - shift
            for here, there in ((shift, 0), (0, shift)):
                joined.narrow(axis, here, kept).bitwise_or_(words.narrow(axis, there, kept))
        words = joined
    return words
