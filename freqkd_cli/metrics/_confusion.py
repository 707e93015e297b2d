"""Counts that most metrics read: every labelled pixel once, by label, prediction and region."""

from __future__ import annotations

import torch
from torch import Tensor

from freqkd_cli.errors import ShapeError
from freqkd_cli.metrics._boundary_region import boundary_region, distance
from freqkd_cli.metrics._metric import Counts
from freqkd_cli.views.labels import void_label


class Confusion(Counts):
    """One global confusion matrix.

    Attributes:
        table: int64 ``[R, K, K]``: region, label, prediction. R is 1 here.
    """

    REGIONS = 1

    def __init__(self, classes: int) -> None:
        super().__init__(self.REGIONS, classes, classes)
        self.classes, self.void = classes, void_label(classes)

    @property
    def matrix(self) -> Tensor:
        """Confusion matrix, int64 ``[K, K]``: row = label, column = prediction."""
        return self.table.sum(0)

    def add(self, prediction: Tensor, labels: Tensor) -> None:
        known, truth, guess = self._checked(prediction, labels)
        region, cells = self._region(known, truth, guess), self.table.numel()
        # Void pixels get a number of their own: selecting the others would cost four times as much.
        numbers = torch.where(known, (region * self.classes + truth) * self.classes + guess, cells)
        counted = torch.bincount(numbers.flatten(), minlength=cells + 1)
        self.table += counted[:-1].reshape(self.table.shape)

    def _checked(self, prediction: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Which pixels count, and both maps as int64 with 0 elsewhere.

        Raises:
            ShapeError: the shapes differ, or a counted number is outside the classes.
        """
        if prediction.shape != labels.shape or labels.ndim < 2:
            got = f"{tuple(prediction.shape)} and {tuple(labels.shape)}"
            what = "prediction and labels are not images of one size"
            raise ShapeError(what, got=got, need="[..., H, W] twice")
        known = labels != self.void
        truth, guess = (
            torch.where(known, values.to(torch.int64), 0) for values in (labels, prediction)
        )
        for what, values in (("labels", truth), ("predictions", guess)):
            low, high = map(int, torch.aminmax(values)) if values.numel() else (0, 0)
            if low < 0 or high >= self.classes:
                need = f"0 .. {self.classes - 1}, or {self.void}"
                raise ShapeError(f"{what} outside the classes", got=f"{low} .. {high}", need=need)
        return known, truth, guess

    def _region(self, known: Tensor, truth: Tensor, guess: Tensor) -> Tensor | int:
        """The region of every pixel, 0 .. R - 1."""
        return 0


class BoundaryConfusion(Confusion):
    """The confusion matrix, split by whether a pixel lies near an outline.

    Attributes:
        table: int64 ``[4, K, K]``. The region is 2 * (in the prediction's boundary region) +
            (in the label's).
    """

    REGIONS = 4

    def _region(self, known: Tensor, truth: Tensor, guess: Tensor) -> Tensor:
        pixels = distance(*truth.shape[-2:])
        predicted, labelled = (
            boundary_region(torch.where(known, values, self.void), pixels)
            for values in (guess, truth)
        )
        return (2 * predicted.view(torch.uint8) + labelled.view(torch.uint8)).to(torch.int64)
