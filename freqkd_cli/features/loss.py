"""What every loss is: two halves. One file of ``losses/`` is one loss; it offers ``build(...) -> Loss``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from freqkd_cli.features.taps import Tap
from freqkd_cli.views.batch import Batch

Grid = tuple[int, int]


class Loss(nn.Module, ABC):
    """The teacher's half runs once per view, perhaps long before training; the student's half is what a step pays for.

    A subclass sets, as data:

    Attributes:
        needs_labels: reads ``batch.labels`` in ``forward``.
        reads_logits: compares class scores, so student and teacher must have the same classes.
        target_arguments: names of those of its ``build`` arguments that change what ``target`` returns. They enter the fingerprint of
            a cache of targets.
        target_version: raised whenever ``target`` comes to return other numbers for the same arguments, so that older caches are refused.
    """

    needs_labels: ClassVar[bool] = False
    reads_logits: ClassVar[bool] = False
    target_arguments: ClassVar[tuple[str, ...]] = ()
    target_version: ClassVar[int] = 1

    @abstractmethod
    def student_taps(self, available: Mapping[str, Tap]) -> tuple[str, ...]:
        """Names of the student taps that ``forward`` reads, given what the student has."""

    def teacher_taps(self, available: Mapping[str, Tap]) -> tuple[str, ...]:
        """Names of the teacher taps that ``target`` reads; empty for a loss that needs no teacher."""
        return ()

    def start(self, student: Mapping[str, Tap], teacher: Mapping[str, Tap], classes: int) -> None:
        """Make what depends on channels and strides: adapters, learned filters. Called once, before the first batch.

        Raises:
            RecipeError: the two sides cannot be compared.
        """

    def check_grids(self, student: Mapping[str, Grid], teacher: Mapping[str, Grid]) -> None:
        """Refuse grids on which the loss means nothing. Called with the sizes of the views, before any tensor.

        Raises:
            BandError: a filter keeps nothing or everything.
        """

    def target(
        self, teacher: Mapping[str, Tensor], batch: Batch, grids: Mapping[str, Grid]
    ) -> dict[str, Tensor]:
        """What the student is compared with, from the frozen teacher's taps.

        No gradient, no state, no randomness, no parameter that is trained with the student; row i depends on sample i alone.

        Args:
            teacher: tap name -> ``[B, C, h, w]``, in any float dtype.
            batch: the views; ``labels`` may be None.
            grids: student tap name -> (h, w) on these views, as data.

        Returns:
            name -> tensor, each with B rows.
        """
        return {}

    @abstractmethod
    def forward(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int
    ) -> Tensor:
        """The raw loss, a scalar float32. ``target`` is what :meth:`target` returned, in its dtype or rounded by a cache."""

    def count(self, batch: Batch, grids: Mapping[str, Grid]) -> float:
        """What :meth:`forward` is a mean over, as a number: samples, unless a loss says otherwise.

        A batch may come in parts (several processes, ``train.accumulate``); the parts' values are then weighted by their counts.

        Args:
            grids: student tap name -> (h, w) on these views.
        """
        return float(len(batch))

    def generator(self, step: int, device: torch.device | str = "cpu") -> torch.Generator:
        """Randomness keyed by (train seed, step, loss), so that an interrupted run continues to the same bits."""
        source = torch.Generator(device=device)
        source.manual_seed(
            (self.seed * 1_000_003 + step * 7_919 + self.number) & 0x7FFF_FFFF_FFFF_FFFF
        )
        return source

    seed: int = 0
    number: int = 0
    """Place of the loss among the recipe's lines; set by the engine, as is ``seed``."""
