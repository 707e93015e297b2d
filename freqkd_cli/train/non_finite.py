"""Losses that are not finite: the first step that has one, and the error that names it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from freqkd_cli.build.objective import Objective
from freqkd_cli.errors import FreqKDError, TrainingFailed
from freqkd_cli.runtime import launch
from freqkd_cli.train.step_views import laid_out, step_views
from freqkd_cli.train.training_state import hold

if TYPE_CHECKING:
    from freqkd_cli.teacher.targets import Source
    from freqkd_cli.train.setting import Setting
    from freqkd_cli.train.training_state import Training
    from freqkd_cli.views.batch import Batch


class FirstBroken:
    """The first step whose total is not finite, kept on the device, which is not waited for.

    From that step on no weight changes, so that the step can be looked at later: torch's fused
    optimizers do nothing where ``found_inf`` is 1 on the device. The statistics of batch norm and
    the memories of losses do change, so those of the last look are kept.

    Args:
        device: where the losses are.
        every: steps from one look to the next. 1 on a CPU, where a look costs nothing.
    """

    def __init__(self, training: Training, device: torch.device, every: int) -> None:
        self.objective, self.optimizer = training.objective, training.optimizer
        self.every = every
        self.step = torch.full((), -1, dtype=torch.int64, device=device)
        self.values: Tensor | None = None
        self.statistics: dict[str, Tensor] = {}
        self._keep()

    def add(self, step: int, terms: Tensor, total: Tensor) -> None:
        """Add a step (0-based), before the optimizer's.

        Args:
            terms: of this process alone.
            total: the mean over all processes, not finite where that of one of them is not.
        """
        new = ~torch.isfinite(total) & (self.step < 0)
        self.step = torch.where(new, step, self.step)
        self.values = terms if self.values is None else torch.where(new, terms, self.values)
        if self.every > 1:
            self.optimizer.found_inf = (self.step >= 0).float()  # type: ignore[attr-defined]

    def is_due(self, step: int, last: int) -> bool:
        """Return whether numbers of this step (1-based) are read, which waits for a GPU."""
        return step % self.every == 0 or step == last

    @torch.no_grad()
    def look(self) -> tuple[int, list[float]] | None:
        """Return the first such step and its terms, if there is one; a GPU is waited for.

        The student then has the weights of that step, and statistics of finite steps.
        """
        step = int(self.step)
        if step < 0 or self.values is None:
            self._keep()
            return None
        for name, statistic in self.objective.named_buffers():
            if name in self.statistics:  # a loss may make one at its first step
                statistic.copy_(self.statistics[name])
        return step, self.values.tolist()

    def _keep(self) -> None:
        if self.every > 1:
            buffers = self.objective.named_buffers()
            self.statistics = {name: statistic.clone() for name, statistic in buffers}


def not_finite(
    broken: tuple[int, list[float]], objective: Objective, setting: Setting, source: Source
) -> FreqKDError:
    """Return the error for a step whose total is not finite; its batch is made once more.

    Args:
        broken: the step (0-based), and its terms in the order of the lines, then the total.
    """
    step, numbers = broken
    names = [*(line.id for line in objective.lines), "total"]
    terms = dict(zip(names, numbers, strict=True))
    if math.isfinite(terms["total"]):
        return FreqKDError(launch.PEER_ENDED, tip="read the error of that process")
    at = step, setting.length.total(step)
    batches = [
        laid_out(batch.to(setting.device), setting.compute)
        for batch in step_views(setting, step, step + 1)
    ]
    values = {name: value for name, value in terms.items() if name != "total"}
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    which = f"losses {', '.join(bad)} are" if len(bad) > 1 else f"loss {[*bad, 'total'][0]} is"
    alone = [_broken_images(objective, source, setting, batch, at) for batch in batches]
    images = [number for part in alone for number in part]
    every = [number for batch in batches for number, _ in batch.items]
    listed = ", ".join(setting.images.name(number) for number in images or every)
    where = f"on {listed}" if images else f"on the batch of {listed}, though on none of them alone"
    return TrainingFailed(
        f"the {which} not finite at step {at[0] + 1}",
        got=", ".join(f"{name} {value:g}" for name, value in values.items()) + f" {where}",
        tip="a lower train.lr, train.clip=1, or a longer warmup of that loss, with --overwrite; "
        "the last checkpoint is kept until then",
    )


@torch.no_grad()
def _broken_images(
    objective: Objective, source: Source, setting: Setting, batch: Batch, at: tuple[int, int]
) -> list[int]:
    """Return the numbers of the images whose own loss is not finite.

    The student is held, since batch norm has no statistics of a single cell. Whatever goes wrong
    here must not hide the error that is being reported, so then no image is named.
    """
    objective.eval()
    hold(objective.student)
    numbers = []
    try:
        of_batch = source.targets(batch, setting.checked.grids)
        for row, (number, _) in enumerate(batch.items):
            part = slice(row, row + 1)
            of_row = {
                id: {name: tensor[part] for name, tensor in target.items()}
                for id, target in of_batch.items()
            }
            total, _ = objective(batch[part], of_row, *at)
            if not torch.isfinite(total):
                numbers.append(number)
    except Exception:
        return []
    return numbers
