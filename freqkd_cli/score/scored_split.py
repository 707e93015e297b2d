"""The split of a recipe's data that models are scored on, in the same way by eval and compare."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from freqkd_cli.build import assemble
from freqkd_cli.build.exported_model import ExportedModel
from freqkd_cli.doctor import diagnosis
from freqkd_cli.errors import UsageError
from freqkd_cli.features.class_names import same_classes
from freqkd_cli.images.held_out import HELD_OUT
from freqkd_cli.runtime.latency import measure_latency, threads
from freqkd_cli.runtime.operations import parameters
from freqkd_cli.runtime.precision import for_scores
from freqkd_cli.runtime.processes import Processes
from freqkd_cli.runtime.progress import Progress
from freqkd_cli.score.evaluate import Pass, Result, score

if TYPE_CHECKING:
    from freqkd_cli.build.training_parts import TrainingParts
    from freqkd_cli.images.dataset import Dataset
    from freqkd_cli.recipe.sections import Recipe

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoredSplit:
    """A split and how to go through it.

    Attributes:
        limit: only the first images, 0 = all.
        batch_size: None = by the size of the images.
        metrics: requested metrics, see :class:`freqkd_cli.score.tally.Tally`.
    """

    recipe: Recipe
    split: str
    dataset: Dataset
    limit: int = 0
    batch_size: int | None = None
    metrics: Sequence[str] = ()

    @classmethod
    def open(
        cls,
        recipe: Recipe,
        split: str,
        root: Path | None,
        limit: int,
        batch_size: int | None = None,
        metrics: Sequence[str] = (),
    ) -> ScoredSplit:
        """Open a split of the recipe's data.

        Raises:
            DataMissing: the data is neither where the recipe says nor in ``root``.
        """
        dataset = assemble.build_dataset(recipe, split, root)
        return cls(recipe, split, dataset, limit, batch_size, metrics)

    @classmethod
    def of_run(
        cls, parts: TrainingParts, recipe: Recipe, root: Path | None, limit: int = 0
    ) -> ScoredSplit:
        """Open what a run of the recipe scores: val, or the held-out images of ``data.hold_out``.

        Raises:
            DataMissing: as :meth:`open`.
        """
        if parts.held_out is None:
            return cls.open(recipe, "val", root, limit)
        return cls(recipe, HELD_OUT, parts.held_out, limit)

    @property
    def images(self) -> int:
        return min(self.limit or len(self.dataset), len(self.dataset))

    def check_classes(self, model: nn.Module, name: str, tip: str) -> None:
        """Refuse a model with another number of classes; warn if their names differ.

        Raises:
            UsageError: the model, called ``name``, has more or fewer classes than the data.
        """
        data, classes = self.recipe.data.name, len(self.dataset.classes)
        if model.classes != classes:
            raise UsageError(
                f"{name} and {data} have different classes",
                got=f"{model.classes} and {classes}",
                need=f"a model with {classes} classes",
                tip=tip,
            )
        if not same_classes(model, self.dataset.classes):
            text = "%s and %s name their classes differently; they are compared by number"
            log.warning(text, name, data)

    def check_labels(self, progress: Progress) -> None:
        """Refuse labels that do not match the recipe.

        Raises:
            DataBroken: with all their problems.
        """
        diagnosis.require(self.dataset, self.split, progress)

    def score(
        self,
        model: nn.Module,
        name: str,
        progress: Progress,
        processes: Processes,
        *,
        batch_size: int | None = None,
        each: Callable[[int, Tensor], None] | None = None,
    ) -> Result:
        """Score a model on the whole split.

        The model is moved to the process's device and left there, in eval mode.

        Args:
            name: shown by the progress bar.
            batch_size: instead of that of the split.
            each: see :func:`freqkd_cli.score.evaluate.score`.
        """
        device = processes.device
        model = model.to(device).eval()
        progress.begin(name, self.images)
        try:
            return score(
                model,
                self.dataset,
                for_scores(device),
                device,
                Pass(
                    batch_size or self.batch_size,
                    self.recipe.data.workers,
                    self.limit,
                    metrics=self.metrics,
                ),
                each=each,
                progress=progress.advance,
                processes=processes,
            )
        finally:
            progress.end()

    def cost(
        self, model: nn.Module, processes: Processes, timed: nn.Module | None = None
    ) -> dict[str, Any]:
        """The parameters of a model, or the bytes of an exported file, and the time of one image.

        The first process measures the time, after the others have finished.

        Args:
            timed: the model that is timed instead, such as one with averaging around it.
        """
        file = model if isinstance(model, ExportedModel) else None
        size = (file and file.facts.size) or tuple(self.recipe.data.size)
        latency = None
        if processes.first:
            latency = round(measure_latency(timed or model, size, processes.device), 3)
        return {
            "parameters": None if file else parameters(model),
            "latency_ms": latency,
            "latency_size": list(size),
            "threads": threads(),
            "device": str(processes.device),
            **({"bytes": file.file_bytes} if file else {}),
        }
