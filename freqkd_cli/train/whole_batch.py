"""What depends on a whole batch, where several processes or passes see a part of it each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from freqkd_cli.build.objective import Objective
from freqkd_cli.features.loss import Grid
from freqkd_cli.runtime.processes import Processes
from freqkd_cli.views.batch import Batch


def convert(objective: Objective, processes: Processes) -> None:
    """Synchronise batch norm over several processes on GPUs. One process changes nothing."""
    if processes.number > 1 and processes.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(objective)


def average_(objective: Objective, terms: Iterable[Tensor], processes: Processes) -> None:
    """Average gradients, batch-norm statistics and ``terms`` over the processes, in place.

    Statistics are averaged at every step, and not only before they are used, so that all students
    stay equal. Running means are linear, so the result is the same.
    """
    if processes.number == 1:
        return
    gradients = [
        parameter.grad for parameter in objective.parameters() if parameter.grad is not None
    ]
    norms = [
        norm
        for norm in objective.modules()
        if isinstance(norm, _BatchNorm) and norm.training and norm.running_mean is not None
    ]
    statistics = [tensor for norm in norms for tensor in (norm.running_mean, norm.running_var)]
    processes.average_([*terms, *gradients, *statistics])


def shares(
    objective: Objective, parts: Sequence[Batch], grids: dict[str, Grid], processes: Processes
) -> list[Tensor | None]:
    """Return, for each part and loss, the factor of its mean in the mean over the whole batch.

    Tensors ``[lines]`` on the device of the process, which is not waited for. The parts are in the
    host's memory.

    The whole batch is all parts of all processes; None where it is a single part. A loss that is a
    mean over labelled pixels must be divided by their number in the whole batch, not by that of a
    part. Otherwise a part with many void pixels weighs too much.
    """
    number = len(parts) * processes.number
    if number == 1:
        return [None]
    counts = torch.tensor(
        [[line.loss.count(part, grids) for line in objective.lines] for part in parts],
        dtype=torch.float64,
    )
    too_large = torch.tensor([number if line.loss.divided_again else 1 for line in objective.lines])
    if processes.number > 1:
        counts = counts.to(processes.device, non_blocking=True)
        too_large = too_large.to(processes.device, non_blocking=True)
    mean = processes.sum(counts.sum(0)) / number
    factors = torch.where(mean > 0, counts / torch.where(mean > 0, mean, 1.0), 1.0) / too_large
    return list(factors.to(torch.float32).to(processes.device, non_blocking=True))
