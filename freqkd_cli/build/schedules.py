"""The length of a run, and the weight of a loss as a function of the step.

Learning-rate schedules are in ``recipe/learning_rate.py``, so that one file defines their names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from freqkd_cli.recipe.learning_rate import rate_factor as rate_factor

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import Train


def run_length(images: int, train: Train) -> tuple[int, int]:
    """Steps of one epoch over ``images`` pictures, and of the whole run; a last batch that is not full is left out."""
    per_epoch = max(1, images // train.batch_size // train.accumulate)
    return per_epoch, train.steps or (train.epochs or 1) * per_epoch


def loss_weight(weight: float, warmup: float, step: int, total: int) -> float:
    """Weight of a loss line at ``step``: linear from near 0 over the first ``warmup`` share of the steps, as FAM-KD warms up."""
    rise = warmup * total
    return weight * min(1.0, (step + 1) / rise) if rise > 0 else weight
