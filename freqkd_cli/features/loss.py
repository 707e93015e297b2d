"""The contract of a loss, in two halves. One file of ``losses/`` is one loss, made by ``build``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor, nn

from freqkd_cli.features.taps import Tap
from freqkd_cli.spectral.masks import BandCells
from freqkd_cli.views.batch import Batch

Grid = tuple[int, int]

LossGroup = Literal["class scores", "features", "frequency", "relations", "labels"]
"""What a loss compares. A file of ``losses/`` declares its group as ``GROUP``; this is the order of
``freqkd losses``."""


class Loss(nn.Module, ABC):
    """Base of the losses: a teacher's half and a student's half.

    The teacher's half runs once per view, perhaps long before training. A training step pays for
    the student's half alone. A subclass sets, as data:

    Attributes:
        needs_labels: ``forward`` reads ``batch.labels``.
        reads_classes_of_labels: the argument by which ``batch.labels`` are matched with the
            teacher's channels, and a value by which they are not. None: they are not matched.
        reads_logits: compares class scores, so student and teacher must have the same classes.
        target_arguments: names of the ``build`` arguments that change what ``target`` returns. They
            enter the fingerprint of a cache of targets.
        file_arguments: names of those of them that are files. Their contents enter the fingerprint.
        divided_again: the value is a mean over the batch, divided once more by its images. That of
            a part is too large by the number of parts.
        target_version: raised when ``target`` returns other numbers for the same arguments, so that
            older caches are refused.
    """

    needs_labels: ClassVar[bool] = False
    reads_classes_of_labels: tuple[str, str] | None = None
    reads_logits: ClassVar[bool] = False
    divided_again: bool = False
    target_arguments: ClassVar[tuple[str, ...]] = ()
    file_arguments: ClassVar[tuple[str, ...]] = ()
    target_version: ClassVar[int] = 1

    @property
    def name(self) -> str:
        """The name in recipes, which is that of the file."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def learns_without_labels(self) -> bool:
        """Whether the student learns from images without labels, given that it reads a teacher."""
        return not self.needs_labels

    @abstractmethod
    def student_taps(self, available: Mapping[str, Tap]) -> tuple[str, ...]:
        """Return the student taps that ``forward`` reads, out of those that the student has."""

    def teacher_taps(self, available: Mapping[str, Tap]) -> tuple[str, ...]:
        """Return the teacher taps that ``target`` reads; none for a loss without a teacher."""
        return ()

    def start(self, student: Mapping[str, Tap], teacher: Mapping[str, Tap], classes: int) -> None:
        """Make what depends on channels and strides: adapters, learned filters.

        Called once, before the first batch.

        Raises:
            RecipeError: the two sides cannot be compared.
        """

    def check_grids(self, student: Mapping[str, Grid], teacher: Mapping[str, Grid]) -> None:
        """Refuse grids on which the loss has no meaning.

        Called with the grids on the recipe's views, before there is a tensor.

        Raises:
            BandError: a filter keeps nothing or everything.
        """

    def band_cells(
        self, student: Mapping[str, Grid], teacher: Mapping[str, Grid]
    ) -> tuple[BandCells, ...]:
        """Return the effective cells of each band that the loss filters with.

        Called with the grids of :meth:`check_grids`, after it.
        """
        return ()

    def warnings(self) -> tuple[tuple[str, str], ...]:
        """Return (what has no effect, a setting of the line that is better), after :meth:`start`.

        The setting is ``key=value``.
        """
        return ()

    def target(
        self, teacher: Mapping[str, Tensor], batch: Batch, grids: Mapping[str, Grid]
    ) -> dict[str, Tensor]:
        """Return what the student is compared with, from the frozen teacher's taps.

        It has no gradient, state, randomness or parameter that is trained with the student. Row i
        depends on sample i alone.

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
        """Return the raw loss, a scalar float32.

        ``target`` is what :meth:`target` returned, in its dtype or rounded by a cache.
        """

    def count(self, batch: Batch, grids: Mapping[str, Grid]) -> float:
        """Return the number that :meth:`forward` is a mean over: samples, unless overridden.

        A batch may come in parts (several processes, ``train.accumulate``). The values of the
        parts are weighted by their counts.

        Args:
            grids: student tap name -> (h, w) on these views.
        """
        return float(len(batch))
