"""The error for a loss that is not finite: which terms, and which images of the batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from freqkd_cli.build.objective import Objective
from freqkd_cli.errors import TrainingFailed
from freqkd_cli.train.training_state import hold

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
    """Return the error for a total that is not finite.

    Args:
        terms: every line's value on the whole batch.
        at: the step (0-based) and the number of steps.
    """
    broken = (
        ", ".join(name for name, value in terms.items() if not torch.isfinite(value)) or "total"
    )
    rows = _broken_rows(objective, batch, targets, at)
    names = ", ".join(dataset.name(int(batch.indices[row])) for row in rows or range(len(batch)))
    where = f"on {names}" if rows else f"on the batch of {names}, though on none of them alone"
    return TrainingFailed(
        f"the loss {broken} is not finite at step {at[0] + 1}",
        got=", ".join(f"{name} {float(value):g}" for name, value in terms.items()) + f" {where}",
        tip="a lower train.lr, train.clip=1, or a longer warmup of that loss, with --overwrite; "
        "the last checkpoint is kept until then",
    )


@torch.no_grad()
def _broken_rows(
    objective: Objective, batch: Batch, targets: Targets, at: tuple[int, int]
) -> list[int]:
    """Return the rows of the batch whose own loss is not finite.

    The student is held, since batch norm has no statistics of a single cell. Whatever goes wrong
    here must not hide the error that is being reported, so then no row is named.
    """
    objective.eval()
    hold(objective.student)
    rows = []
    try:
        for row in range(len(batch)):
            part = slice(row, row + 1)
            of_row = {
                id: {name: tensor[part] for name, tensor in target.items()}
                for id, target in targets.items()
            }
            total, _ = objective(batch[part], of_row, *at)
            if not torch.isfinite(total):
                rows.append(row)
    except Exception:
        return []
    return rows
