"""Right, missed and false pixels of every class, by a region such as the size of an object."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from freqkd_cli.metrics._label_maps import checked_maps, each_image
from freqkd_cli.metrics._metric import Counts, Metric, mean_of, ratios
from freqkd_cli.views.labels import void_label


class RegionCounts(Counts):
    """Pixels by region and class.

    A right or missed pixel counts in its region of the labels, a false one in its region of the
    prediction. Void pixels do not count and are void in both maps.

    Attributes:
        table: int64 ``[3, R, K]``: right pixels, labelled pixels, false pixels of the class.
    """

    REGIONS: int

    def __init__(self, classes: int) -> None:
        super().__init__(3, self.REGIONS, classes)
        self.classes, self.void = classes, void_label(classes)

    def add(self, prediction: Tensor, labels: Tensor) -> None:
        for known, truth, guess in each_image(*checked_maps(prediction, labels, self.classes)):
            maps = (torch.where(known, values, self.void) for values in (truth, guess))
            of_labels, of_prediction = self.regions(*(values.to(torch.int32) for values in maps))
            # The other pixels get a number of their own: selecting these would take longer.
            cells = self.REGIONS * self.classes
            numbers = torch.where(known, of_labels.long() * self.classes + truth, cells)
            labelled = self._count(numbers)
            wrong = torch.nonzero((truth != guess).flatten())[:, 0]
            missed = self._count(numbers.flatten()[wrong])
            in_region = of_prediction.flatten()[wrong].long()
            false = self._count(in_region * self.classes + guess.flatten()[wrong])
            self.table += torch.stack([labelled - missed, labelled, false])

    def _count(self, numbers: Tensor) -> Tensor:
        """Pixels by region and class, ``[R, K]``, of ``region * K + class``; R * K is left out."""
        cells = self.REGIONS * self.classes
        count = torch.bincount(numbers.flatten(), minlength=cells + 1)
        return count[:-1].view(self.REGIONS, self.classes)

    def regions(self, truth: Tensor, guess: Tensor) -> tuple[Tensor, Tensor]:
        """The regions of the labels and of the prediction of one image.

        Args:
            truth, guess: int32 ``[H, W]``, both with the void number at void pixels.

        Returns:
            0 .. R - 1, uint8 ``[H, W]`` each.
        """
        return self.region(truth), self.region(guess)

    def region(self, labels: Tensor) -> Tensor:
        """The region of every pixel of one map, see :meth:`regions`."""
        raise NotImplementedError

    def iou(self, regions: slice) -> list[float | None]:
        """IoU of every class, right / (labelled + false), of some regions together."""
        right, labelled, false = self.table[:, regions].sum(1).to(torch.float64)
        return ratios(right, labelled + false)

    def recall(self, regions: slice) -> list[float | None]:
        """Share of the labelled pixels of every class that is right."""
        right, labelled, _ = self.table[:, regions].sum(1).to(torch.float64)
        return ratios(right, labelled)


class RegionScores(Metric):
    """IoU and recall of every part of an image, averaged over its classes.

    Args:
        parts: form of the names -> regions that belong to the part. ``thin_{}_4`` stands for
            ``thin_miou_4``, ``thin_recall_4`` and, per class, ``thin_iou_4``.
        recall: also the recall.
    """

    counts: RegionCounts

    def __init__(self, counts: RegionCounts, parts: Mapping[str, slice], *, recall: bool) -> None:
        super().__init__(counts)
        self.parts, self.with_recall = parts, recall

    def values(self) -> dict[str, float | None]:
        numbers = {}
        for name, regions in self.parts.items():
            numbers[name.format("miou")] = mean_of(self.counts.iou(regions))
            if self.with_recall:
                numbers[name.format("recall")] = mean_of(self.counts.recall(regions))
        return numbers

    def per_class(self) -> dict[str, list[float | None]]:
        return {
            name.format("iou"): self.counts.iou(regions) for name, regions in self.parts.items()
        }
