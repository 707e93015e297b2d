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
        class_weights: id of a loss line -> class -> weight, where the run counted them.
    """

    plan: Plan
    out: Path
    processes: Processes
    compute: Compute
    dataset: Dataset
    steps: Steps
    length: RunLength
    class_weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.processes.device
