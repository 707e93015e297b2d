"""What models are scored on, a split of a recipe's data: ``eval`` and ``compare`` put every model on it in the same way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from freqkd_cli.build import assemble
from freqkd_cli.doctor import diagnosis
from freqkd_cli.errors import UsageError
from freqkd_cli.runtime.latency import measure_latency, threads
from freqkd_cli.runtime.operations import parameters
from freqkd_cli.runtime.precision import for_scores
from freqkd_cli.runtime.processes import Processes
from freqkd_cli.runtime.progress import Progress
from freqkd_cli.score.evaluate import Pass, Result, score
from freqkd_cli.teacher.teacher_classes import same_classes

if TYPE_CHECKING:
    from freqkd_cli.images.dataset import Dataset
    from freqkd_cli.recipe.sections import Recipe


@dataclass(frozen=True)
class Ground:
    """A split and what the recipe says of going through it. ``limit``: only the first images, 0 = all."""

    recipe: Recipe
    split: str
    dataset: Dataset
    limit: int = 0

    @classmethod
    def of(cls, recipe: Recipe, split: str, root: Path | None, limit: int) -> Ground:
        """
        Raises:
            DataMissing: the data is not where the recipe, or ``root``, says.
        """
        return cls(recipe, split, assemble.build_dataset(recipe, split, root), limit)

    @property
    def images(self) -> int:
        return min(self.limit or len(self.dataset), len(self.dataset))

    def require(self, model: nn.Module, what: str, progress: Progress, tip: str) -> None:
        """Whether a model, called ``what``, has the classes of the data; other names of as many are a warning.

        Raises:
            UsageError: it has more classes, or fewer.
        """
        data = self.recipe.data.name
        if model.classes != len(self.dataset.classes):
            got = f"{model.classes} and {len(self.dataset.classes)}"
            raise UsageError(f"{what} and {data} have different classes", got=got, tip=tip)
        if not same_classes(model, self.dataset.classes):
            progress.note(
                f"warning: {what} and {data} name their classes differently; they are compared by number"
            )

    def look(self, progress: Progress) -> None:
        """Have a look at the labels.

        Raises:
            DataBroken: with everything that is wrong with them.
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
        """Count the whole split; the model is moved to the process's device and left there, in eval mode. ``name``: for the progress."""
        device = processes.device
        how = Pass(batch_size or self.recipe.train.batch_size, self.recipe.data.workers, self.limit)
        model = model.to(device).eval()
        progress.begin(name, self.images)
        try:
            return score(
                model,
                self.dataset,
                for_scores(device),
                device,
                how,
                each=each,
                progress=progress.advance,
                processes=processes,
            )
        finally:
            progress.end()

    def cost(
        self, model: nn.Module, processes: Processes, timed: nn.Module | None = None
    ) -> dict[str, Any]:
        """What a model takes: parameters, and the time of one image, by the first process, once the others have nothing more to do.

        ``timed``: what is run in place of the model alone.
        """
        size = tuple(self.recipe.data.size)
        return {
            "parameters": parameters(model),
            "latency_ms": round(measure_latency(timed or model, size, processes.device), 3)
            if processes.first
            else None,
            "latency_size": list(size),
            "threads": threads(),
            "device": str(processes.device),
        }
