"""What to say of a loss that is not finite: which terms, and which pictures of the batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from freqkd_cli.build.objective import Objective
from freqkd_cli.errors import FreqKDError, TrainingFailed

if TYPE_CHECKING:
    from freqkd_cli.images.dataset import Dataset
    from freqkd_cli.views.batch import Batch

Targets = Mapping[str, Mapping[str, Tensor]]


def not_finite(
    objective: Objective,
    terms: Mapping[str, Tensor],
    batch: Batch,
    targets: Targets,
    dataset: Dataset,
    at: tuple[int, int],
) -> TrainingFailed:
    """The error for a total that is not finite.

    Args:
        terms: every line's value on the whole batch.
        at: the step, from 0, and how many there are.
    """
    broken = (
        ", ".join(name for name, value in terms.items() if not torch.isfinite(value)) or "total"
    )
    guilty = _alone(objective, batch, targets, at)
    names = ", ".join(dataset.name(int(batch.indices[row])) for row in guilty or range(len(batch)))
    where = f"on {names}" if guilty else f"on the batch of {names}, though on none of them alone"
    return TrainingFailed(
        f"the loss {broken} is not finite at step {at[0] + 1}",
        got=", ".join(f"{name} {float(value):g}" for name, value in terms.items()) + f" {where}",
        tip="a lower train.lr, train.clip=1, or a longer warmup of that loss; the last whole checkpoint is kept",
    )


@torch.no_grad()
def _alone(objective: Objective, batch: Batch, targets: Targets, at: tuple[int, int]) -> list[int]:
    """Rows of the batch whose own loss is not finite, in eval mode: batch norm cannot have statistics of one cell."""
    objective.eval()
    found = []
    for row in range(len(batch)):
        part = slice(row, row + 1)
        of_row = {
            id: {name: tensor[part] for name, tensor in target.items()}
            for id, target in targets.items()
        }
        try:
            total, _ = objective(batch[part], of_row, *at)
        except (FreqKDError, ValueError, RuntimeError):
            return []
        if not torch.isfinite(total):
            found.append(row)
    return found
