"""Scores during training, in float32 as ``freqkd eval`` computes them, and what is drawn of them.

The drawing itself is given from outside (:class:`Drawing`), since reports are made above this room.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from torch import Tensor, nn

from freqkd_cli.build.saved import save_model
from freqkd_cli.images.held_out import HELD_OUT
from freqkd_cli.runtime.precision import for_scores
from freqkd_cli.runtime.processes import Processes
from freqkd_cli.score.evaluate import Pass, score
from freqkd_cli.train.compilation import uncompiled
from freqkd_cli.train.run_folder import CURVES, SAMPLES, writing
from freqkd_cli.train.training_state import Training

if TYPE_CHECKING:
    from freqkd_cli.images.dataset import Dataset
    from freqkd_cli.recipe.sections import Recipe

log = logging.getLogger(__name__)

SHOWN = 4
"""Images of samples.png, spread evenly over the images that are scored."""


class Drawing(Protocol):
    """Draws the previews of a run."""

    def curves(self, rows: Sequence[Mapping[str, Any]], path: Path) -> None:
        """Draw the rows of metrics.jsonl."""

    def samples(
        self, panels: Sequence[Mapping[str, np.ndarray]], dataset: Dataset, path: Path
    ) -> None:
        """Draw one row of panels per image."""


class Evaluation:
    """Scores a student on the validation split or the held-out part, and draws previews of a run.

    Args:
        dataset: the images; None where the split has no labels, so nothing is scored.
        drawing: draws ``curves.png`` and ``samples.png``; None to draw nothing.
    """

    def __init__(
        self,
        dataset: Dataset | None,
        recipe: Recipe,
        processes: Processes,
        drawing: Drawing | None = None,
    ) -> None:
        self.dataset, self.processes = dataset, processes
        self.split = HELD_OUT if recipe.data.hold_out else "val"
        self.drawing, self.previews = drawing, recipe.train.previews
        self.compute = for_scores(processes.device)
        self.limit = recipe.train.eval_limit
        self.workers = recipe.data.workers
        self.images = 0 if dataset is None else min(len(dataset), self.limit or len(dataset))
        count = min(SHOWN, self.images) if drawing and self.previews else 0
        self.shown = [number * self.images // count for number in range(count)]
        self.predictions: dict[int, np.ndarray] = {}
        self.scoring = self.drawn = 0.0
        self.per_class: dict[str, dict[str, float | None]] = {}

    def run(self, training: Training, out: Path, *, last: bool) -> dict[str, float | None] | None:
        """Score the weights that would be deployed and keep the best; None without labels.

        Writes the best model into the run folder ``out``, and the ``last`` one into ``out/last``.
        """
        student, best = training.objective.student, training.best
        with training.averaged(), uncompiled(student):
            student.eval()
            scores = self._score(student)
            miou = scores["miou"] if scores else None
            training.last = {"miou": miou, "step": training.step}
            with writing(out):
                if best is None or miou is None or miou > (best["miou"] or 0):
                    training.best = training.last
                    if self.processes.first:
                        save_model(out, student)
                if last and self.processes.first:
                    save_model(out / "last", student)
        return scores

    def _score(self, student: nn.Module) -> dict[str, float | None] | None:
        """Return the cheap metrics of a student in evaluation mode; keep its sample predictions."""
        if self.dataset is None:
            return None
        started, kept = time.monotonic(), {}

        def keep(number: int, labels: Tensor) -> None:
            if number in self.shown:
                kept[number] = labels.cpu().numpy().astype(np.int32)

        how = Pass(workers=self.workers, limit=self.limit, cheap=True)
        result = score(
            student,
            self.dataset,
            self.compute,
            self.processes.device,
            how,
            each=keep if self.shown else None,
            processes=self.processes,
        )
        if self.shown:
            self.predictions = {
                number: labels
                for part in self.processes.gather(kept)
                for number, labels in part.items()
            }
        self.scoring += time.monotonic() - started
        self.per_class = {
            name: dict(zip(self.dataset.classes, values, strict=True))
            for name, values in result.tally.per_class().items()
        }
        return result.values

    def draw(self, out: Path, *, last: bool) -> None:
        """Write the previews into the run folder ``out``, in the first process alone.

        Drawing takes no longer than scoring: where the previews so far took more time, they are
        left out until the ``last`` evaluation, whose curves :meth:`draw_curves` draws.
        """
        if not self.previews or self.dataset is None or (self.drawn > self.scoring and not last):
            return
        if not last:
            self.draw_curves(out)
        self._try(self._draw_samples, out / SAMPLES)

    def draw_curves(self, out: Path) -> None:
        """Write ``curves.png`` into the run folder ``out``; at the end of a run, in any case."""
        self._try(self._draw_curves, out / CURVES)

    def _try(self, draw: Callable[[Drawing, Path], None], path: Path) -> None:
        """Draw in the first process; a failure is a warning, since it must not end a run."""
        if self.drawing is None or not self.processes.first:
            return
        started = time.monotonic()
        try:
            draw(self.drawing, path)
        except Exception as error:
            log.warning("no previews are drawn any more: %s", error)
            self.drawing = None
        self.drawn += time.monotonic() - started

    def _draw_curves(self, drawing: Drawing, path: Path) -> None:
        text = path.with_name("metrics.jsonl").read_text(encoding="utf-8")
        drawing.curves([json.loads(line) for line in text.splitlines()], path)

    def _draw_samples(self, drawing: Drawing, path: Path) -> None:
        assert self.dataset is not None
        drawing.samples([self._panels(number) for number in self.shown], self.dataset, path)

    def _panels(self, number: int) -> dict[str, np.ndarray]:
        """Return image, ground truth and prediction of one image of the validation split."""
        assert self.dataset is not None
        image, labels = self.dataset.read(number)
        truth = {} if labels is None else {"ground truth": np.asarray(labels)}
        return {"image": np.asarray(image), **truth, "prediction": self.predictions[number]}
