"""Counts that most metrics read: every labelled pixel once, by label, prediction and region."""

from __future__ import annotations

import torch
from torch import Tensor

from freqkd_cli.errors import ShapeError
from freqkd_cli.metrics._boundary_region import boundary_region, distance
from freqkd_cli.metrics._label_maps import checked_maps, known_pixels
from freqkd_cli.metrics._metric import Counts
from freqkd_cli.views.labels import void_label


class Confusion(Counts):
    """One global confusion matrix.

    Attributes:
        table: int64 ``[R, K, K]``: region, label, prediction. R is 1 here.
    """

    REGIONS = 1
    on_any_device = True

    def __init__(self, classes: int) -> None:
        super().__init__(self.REGIONS, classes, classes)
        self.classes, self.void = classes, void_label(classes)
        self.outside = torch.zeros((), dtype=torch.int64)

    @property
    def matrix(self) -> Tensor:
        """Confusion matrix, int64 ``[K, K]``: row = label, column = prediction."""
        return self.table.sum(0)

    def add(self, prediction: Tensor, labels: Tensor) -> None:
        if self.table.device.type != "cpu":
            self._add_there(prediction, labels)
            return
        known, truth, guess = checked_maps(prediction, labels, self.classes)
        region, cells = self._region(known, truth, guess), self.table.numel()
        # Void pixels get a number of their own: selecting the others would cost four times as much.
        numbers = torch.where(known, (region * self.classes + truth) * self.classes + guess, cells)
        counted = torch.bincount(numbers.flatten(), minlength=cells + 1)
        self.table += counted[:-1].reshape(self.table.shape)

    def _add_there(self, prediction: Tensor, labels: Tensor) -> None:
        """Count on a GPU without waiting for it: :meth:`to` checks the numbers at the end."""
        known, truth, guess = known_pixels(prediction, labels, self.void)
        inside = (truth >= 0) & (truth < self.classes) & (guess >= 0) & (guess < self.classes)
        self.outside = self.outside + (known & ~inside).sum()
        region, cells = self._region(known, truth, guess), self.table.numel()
        numbers = (region * self.classes + truth) * self.classes + guess
        numbers = torch.where(known & inside, numbers, cells).flatten()
        counted = self.table.new_zeros(cells + 1)
        counted.scatter_add_(0, numbers, torch.ones_like(numbers))
        self.table = self.table + counted[:-1].reshape(self.table.shape)

    def join(self, other: Counts) -> None:
        super().join(other)
        self.outside = self.outside + other.outside  # type: ignore[attr-defined]

    def to(self, device: torch.device | str) -> None:
        super().to(device)
        self.outside = self.outside.to(device)
        if self.table.device.type == "cpu" and self.outside:
            raise ShapeError(
                "labels or predictions outside the classes",
                got=f"{int(self.outside)} pixels",
                need=f"0 .. {self.classes - 1}, or {self.void}",
            )

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
