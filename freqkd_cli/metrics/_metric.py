"""The contract of a metric: what a file of this drawer offers.

A file offers ``build(classes=K) -> Metric`` and, as data:

- ``NUMBERS`` and ``PER_CLASS``: name -> :class:`Number`.
- ``CHEAP``: whether it is also computed at every validation during training.
- ``ON_REQUEST`` (False where it is missing): whether it is computed only where it is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Number:
    """How a named number is shown.

    Attributes:
        title: heading in tables.
        unit: ``%`` for a share, stored in [0, 1] and printed times 100; any other unit is printed
            behind the title and the number as it is.
        best: the value of a perfect prediction.
        signed: a value below 0, the best one, is as wrong as one above it.
    """

    title: str
    unit: str = "%"
    best: float = 1.0
    signed: bool = False

    @property
    def heading(self) -> str:
        return self.title if self.unit == "%" else f"{self.title}, {self.unit}"

    def printed(self, value: float | None) -> float | None:
        """The value as tables print it; None stays None."""
        return 100 * value if self.unit == "%" and value is not None else value


class Counts:
    """Whole numbers that are counted image by image.

    Attributes:
        table: int64 tensor. The counts of two sets of images are the sum of their tables.
        needs_confidence: whether ``add`` also takes the largest probability of every pixel.
        on_any_device: whether ``table`` may be on a GPU, which ``add`` then does not wait for. The
            maps of other counts are on the CPU.
    """

    needs_confidence = False
    on_any_device = False

    def __init__(self, *shape: int) -> None:
        self.table = torch.zeros(shape, dtype=torch.int64)

    def add(self, prediction: Tensor, labels: Tensor, *confidence: Tensor) -> None:
        """Count images of one size, without padding.

        Args:
            prediction: whole numbers ``[..., H, W]``, on the device of ``table``.
            labels: whole numbers of the same shape; 255 is left out.
            confidence: the largest probability of every pixel, only with ``needs_confidence``.

        Raises:
            ShapeError: the shapes differ, or a counted number is outside the classes.
        """
        raise NotImplementedError

    def to(self, device: torch.device | str) -> None:
        """Put the table on a device."""
        self.table = self.table.to(device)

    def join(self, other: Counts) -> None:
        """Add the counts of other images."""
        self.table += other.table

    def covers(self, other: Counts) -> bool:
        """Whether a metric that reads ``other`` may read this one, so that pixels are counted once.

        Counts with further arguments have to compare them as well.
        """
        return isinstance(self, type(other))


class Metric:
    """Named numbers of a split, computed from counts.

    Attributes:
        counts: replaced by those of another metric where they cover them.
    """

    def __init__(self, counts: Counts) -> None:
        self.counts = counts

    @property
    def table(self) -> Tensor:
        return self.counts.table

    def add(self, prediction: Tensor, labels: Tensor, *confidence: Tensor) -> None:
        """Count images, see :meth:`Counts.add`."""
        self.counts.add(prediction, labels, *confidence)

    def values(self) -> dict[str, float | None]:
        """The numbers of ``NUMBERS``; None where nothing could be counted, which is not 0."""
        raise NotImplementedError

    def per_class(self) -> dict[str, list[float | None]]:
        """The numbers of ``PER_CLASS``, one per class; None where a class could not be counted."""
        return {}


def ratios(part: Tensor, whole: Tensor) -> list[float | None]:
    """``part / whole`` of every class, in float64; None where ``whole`` is 0."""
    pairs = zip(part.tolist(), whole.tolist(), strict=True)
    return [float(p) / float(n) if n else None for p, n in pairs]


def mean_of(values: list[float | None]) -> float | None:
    """Mean of the numbers; None where there is none."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None
