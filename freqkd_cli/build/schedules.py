"""Run length, learning rate and loss weights as functions of the step.

Pure arithmetic, so a resumed run needs no scheduler state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import Train


@dataclass(frozen=True)
class RunLength:
    """How long a run is.

    Attributes:
        batches_per_epoch: full batches in one pass over the training images.
        accumulate: batches per optimizer step.
        steps: optimizer steps of the whole run.
    """

    batches_per_epoch: int
    accumulate: int
    steps: int

    def epochs_after(self, step: int) -> int:
        """Return the number of whole epochs in the first ``step`` steps."""
        return step * self.accumulate // self.batches_per_epoch

    def ends_an_epoch(self, step: int, every: int = 1) -> bool:
        """Return whether the ``step``-th step (1-based) completes an ``every``-th epoch."""
        return self.epochs_after(step) // every > self.epochs_after(step - 1) // every


def run_length(images: int, train: Train) -> RunLength:
    """Return the length of a run over ``images`` images; a last batch that is not full is dropped.

    A step takes ``train.accumulate`` batches and may cross the end of an epoch. The number of
    steps is rounded up, so that a run sees every batch of its ``train.epochs`` epochs.
    """
    batches = max(1, images // train.batch_size)
    steps = train.steps or -(-(train.epochs or 1) * batches // train.accumulate)
    return RunLength(batches, train.accumulate, steps)


def rate_factor(
    step: int, total: int, *, kind: str, warmup: float = 0.0, power: float = 0.9
) -> float:
    """Return the share of the peak learning rate at ``step`` (0-based) of ``total`` steps.

    ``poly``: linear warm-up over ``warmup * total`` steps, then (1 - t)^power (Chen et al.,
    DeepLab). ``one_cycle``: cosine from 1/25 up to 1 during the warm-up (30 % of the steps where
    ``warmup`` is 0), then cosine to 1/2.5e5 (Smith and Topin 2017; the constants of torch's
    OneCycleLR). ``constant``: 1 after the warm-up.
    """
    if kind == "one_cycle":
        rise = max(1.0, (warmup or 0.3) * total - 1)
        if step <= rise:
            return _cosine(1 / 25, 1.0, step / rise)
        return _cosine(1.0, 1 / 2.5e5, min(1.0, (step - rise) / max(1.0, total - 1 - rise)))
    rise = warmup * total
    if step < rise:
        return (step + 1) / (rise + 1)
    if kind == "constant":
        return 1.0
    return (1 - (step - rise) / max(1.0, total - rise)) ** power


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def loss_weight(weight: float, warmup: float, step: int, total: int) -> float:
    """Return the weight of a loss line at ``step`` (0-based).

    It is linear from near 0 over the first ``warmup`` share of the steps, as in FAM-KD.
    """
    rise = warmup * total
    return weight * min(1.0, (step + 1) / rise) if rise > 0 else weight
