"""The length of a run, and the weight of a loss as a function of the step.

Learning-rate schedules are in ``recipe/learning_rate.py``, so that one file defines their names.
All of it is pure arithmetic, so a resumed run needs no scheduler state.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from freqkd_cli.views.pool_share import batches_per_epoch

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import Train


@dataclass(frozen=True)
class RunLength:
    """How long a run is.

    Attributes:
        batches_per_epoch: full batches in one pass over the training images.
        accumulate: batches per optimizer step.
        stages: optimizer steps of the run up to the end of each stage. A run that was never
            extended has one stage.
    """

    batches_per_epoch: int
    accumulate: int
    stages: tuple[int, ...]

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.stages[-1]

    def total(self, step: int) -> int:
        """Return the length of the schedule that ``step`` (0-based) belongs to."""
        return next((stage for stage in self.stages if step < stage), self.steps)

    def epochs_after(self, step: int) -> int:
        """Return the number of whole epochs in the first ``step`` steps."""
        return step * self.accumulate // self.batches_per_epoch

    def ends_an_epoch(self, step: int, every: int = 1) -> bool:
        """Return whether the ``step``-th step (1-based) completes an ``every``-th epoch."""
        return self.epochs_after(step) // every > self.epochs_after(step - 1) // every


def run_length(images: int, train: Train, pool_share: float = 0.0) -> RunLength:
    """Return the length of a run over ``images`` images; a last batch that is not full is dropped.

    Images of a pool do not count, but take their share ``pool_share`` of each batch.

    A step takes ``train.accumulate`` batches and may cross the end of an epoch. The number of
    steps is rounded up, so that a run sees every batch of its ``train.epochs`` epochs. Each number
    of ``train.extend`` is a further stage.
    """
    batches = max(1, batches_per_epoch(images, train.batch_size, pool_share))
    steps = train.steps or -(-(train.epochs or 1) * batches // train.accumulate)
    stages = tuple(itertools.accumulate((steps, *(train.extend or ()))))
    return RunLength(batches, train.accumulate, stages)


def loss_weight(weight: float, warmup: float, decay: float, step: int, total: int) -> float:
    """Return the weight of a loss line at ``step`` (0-based).

    It rises linearly from near 0 over the first ``warmup`` share of the steps, as in FAM-KD, and
    falls linearly to near 0 over the last ``decay`` share of them.
    """
    rise, fall = warmup * total, decay * total
    up = (step + 1) / rise if rise > 0 else 1.0
    down = (total - step) / fall if fall > 0 else 1.0
    return weight * min(1.0, up, down)
