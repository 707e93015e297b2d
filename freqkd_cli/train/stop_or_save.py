"""Whether a run stops or saves after a step, which its processes agree on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from freqkd_cli.runtime.processes import Processes
    from freqkd_cli.train.checkpoint import Interval


def stop_or_save(
    step: int, signals: Sequence[int], interval: Interval, every: int, processes: Processes
) -> tuple[bool, bool]:
    """Return whether any process was asked to stop, and whether a checkpoint is due in any.

    Args:
        step: the steps that are done.
        every: steps from one agreement of several processes to the next, since it waits for GPUs.
    """
    agreed = step % every == 0 or interval.by_steps(step)
    if processes.number > 1 and not agreed:
        return False, False
    flags = torch.tensor([bool(signals), interval.due(step)], dtype=torch.int64)
    stop, due = processes.sum(flags).bool().tolist()
    return stop, due
