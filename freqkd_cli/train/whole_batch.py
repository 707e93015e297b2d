"""What depends on a batch as a whole, kept as it would be in one process where each of several sees a share of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from freqkd_cli.build.objective import Objective
from freqkd_cli.features.loss import Grid
from freqkd_cli.runtime.processes import Processes
from freqkd_cli.views.batch import Batch


def convert(objective: Objective, processes: Processes) -> None:
    """Make noise, and on GPUs the statistics of batch norm, those of the whole batch. Nothing changes in one process."""
    if processes.number == 1:
        return
    for parent in list(objective.modules()):
        for name, child in list(parent.named_children()):
            # DropPath is what transformers and timm call theirs.
            if isinstance(child, _DropoutNd) or type(child).__name__.endswith("DropPath"):
                setattr(parent, name, _Noise(child, processes))
    if processes.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(objective)


class _Noise(nn.Module):
    """Dropout that draws for the whole batch and takes this process's rows: every ``number``-th, as ``Steps`` deals them out."""

    def __init__(self, noise: nn.Module, processes: Processes) -> None:
        super().__init__()
        self.noise, self.index, self.number = noise, processes.index, processes.number

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        # Laid out as the tensor itself would be: the order in which numbers are drawn follows memory.
        ones = torch.ones_like(torch.cat([x.detach()] * self.number))
        return x * self.noise(ones)[self.index :: self.number]


def average_(objective: Objective, terms: Iterable[Tensor], processes: Processes) -> None:
    """Put the whole batch's gradients, statistics of batch norm and ``terms`` in place of those of a share.

    Statistics are averaged at every step, and not only before they are used, so that all students stay one. Running means are linear: it
    comes to the same.
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
    processes.average_(
        [
            *terms,
            *gradients,
            *(tensor for norm in norms for tensor in (norm.running_mean, norm.running_var)),
        ]
    )


def shares(
    objective: Objective, parts: Sequence[Batch], grids: dict[str, Grid], processes: Processes
) -> list[list[float] | None]:
    """For each part and loss, what its mean counts in the mean over all parts of all processes; None where there is one part alone.

    A loss that is a mean over labelled pixels must be divided by their number in the whole batch, not by that of a part: a part with
    much void would weigh too much.
    """
    if len(parts) * processes.number == 1:
        return [None]
    counts = torch.tensor(
        [[line.loss.count(part, grids) for line in objective.lines] for part in parts],
        dtype=torch.float64,
    )
    mean = processes.sum(counts.sum(0)) / (len(parts) * processes.number)
    return torch.where(mean > 0, counts / torch.where(mean > 0, mean, 1.0), 1.0).tolist()
