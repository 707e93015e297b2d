"""What stays the same for the whole of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from freqkd_cli.build.schedules import RunLength
from freqkd_cli.runtime.precision import Compute
from freqkd_cli.runtime.processes import Processes

if TYPE_CHECKING:
    from freqkd_cli.build.assemble import Plan
    from freqkd_cli.images.dataset import Dataset
    from freqkd_cli.views.steps import Steps


@dataclass(frozen=True)
class Setting:
    """What stays the same for the whole of a run.

    Attributes:
        dataset: the training split.
        images: the images that views are drawn from: the split, then those of a pool.
        class_weights: id of a loss line -> class -> weight, where the run counted them.
    """

    plan: Plan
    out: Path
    processes: Processes
    compute: Compute
    dataset: Dataset
    images: Dataset
    steps: Steps
    length: RunLength
    class_weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def numbers_of_images(self) -> dict[str, int]:
        """Return the keys ``images`` and, with a pool, ``pool_images`` of summaries."""
        pool = {"pool_images": self.steps.pool.length} if self.steps.pool else {}
        return {"images": len(self.dataset)} | pool

    @property
    def device(self) -> torch.device:
        return self.processes.device
