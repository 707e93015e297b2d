"""What is counted in a split: every labelled pixel once, by its label, its prediction and whether it lies in a boundary region."""

from __future__ import annotations

import torch
from torch import Tensor

from freqkd_cli.errors import ShapeError
from freqkd_cli.metrics.boundary import boundary_region, distance
from freqkd_cli.score.scores import Scores, mean_of, ratios, scores
from freqkd_cli.views.labels import IGNORE


class Tally:
    """Counts of a split, picture by picture: one confusion matrix, and boundary IoU from the same pass.

    Boundary IoU is that of ``metrics/boundary.py``: one intersection and one union per class, summed over the split.

    Args:
        classes: K.
        boundary: count boundary regions too.

    Attributes:
        table: int64 ``[4, K, K]``: 2 * (in the prediction's boundary region) + (in the label's), label, prediction.
    """

    def __init__(self, classes: int, *, boundary: bool = True) -> None:
        self.classes, self.boundary = classes, boundary
        self.table = torch.zeros(4, classes, classes, dtype=torch.int64)

    def add(self, prediction: Tensor, labels: Tensor) -> Tally:
        """Count pictures of one size, without padding, and return the tally.

        Args:
            prediction: whole numbers ``[..., H, W]`` on the CPU, 0 .. K - 1 wherever the label is counted.
            labels: whole numbers of the same shape; 255 is left out, whatever was predicted there.

        Raises:
            ShapeError: shapes that differ, or a counted number outside the classes.
        """
        if prediction.shape != labels.shape or labels.ndim < 2:
            got = f"{tuple(prediction.shape)} and {tuple(labels.shape)}"
            raise ShapeError(
                "prediction and labels are not pictures of one size",
                got=got,
                need="[..., H, W] twice",
            )
        known = labels != IGNORE
        truth, guess = (
            torch.where(known, values.to(torch.int64), 0) for values in (labels, prediction)
        )
        for what, values in (("labels", truth), ("predictions", guess)):
            low, high = (
                (int(value) for value in torch.aminmax(values)) if values.numel() else (0, 0)
            )
            if low < 0 or high >= self.classes:
                raise ShapeError(
                    f"{what} outside the classes",
                    got=f"{low} .. {high}",
                    need=f"0 .. {self.classes - 1}, or 255",
                )
        kind = self._kind(known, truth, guess) if self.boundary else 0
        # Void pixels get a number of their own: picking the others out would cost four times as much.
        cells = torch.where(
            known, (kind * self.classes + truth) * self.classes + guess, self.table.numel()
        )
        self.table += torch.bincount(cells.flatten(), minlength=self.table.numel() + 1)[
            :-1
        ].reshape(self.table.shape)
        return self

    def _kind(self, known: Tensor, truth: Tensor, guess: Tensor) -> Tensor:
        pixels = distance(*truth.shape[-2:])
        ours, theirs = (
            boundary_region(torch.where(known, values, IGNORE), pixels) for values in (guess, truth)
        )
        return (2 * ours.view(torch.uint8) + theirs.view(torch.uint8)).to(torch.int64)

    def join(self, other: Tally) -> None:
        """Add what another one counted."""
        self.table += other.table

    @property
    def matrix(self) -> Tensor:
        """The confusion matrix, int64 ``[K, K]``: row = label, column = prediction."""
        return self.table.sum(0)

    def scores(self) -> Scores:
        return scores(self.matrix)

    def boundary_per_class(self) -> list[float | None]:
        """IoU of the boundary regions of every class, None where their union is empty."""
        inside = self.table[3].diagonal()
        union = self.table[2:].sum((0, 1)) + self.table[1::2].sum((0, 2)) - inside
        return ratios(inside.to(torch.float64), union.to(torch.float64))

    def boundary_iou(self) -> float | None:
        """Mean over the classes with a non-empty union; None where there is none, or where boundaries were not counted."""
        return mean_of(self.boundary_per_class()) if self.boundary else None
