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
    from freqkd_cli.build.assemble import CheckedRecipe
    from freqkd_cli.images.dataset import Dataset
    from freqkd_cli.views.steps import Steps


@dataclass(frozen=True)
class Setting:
    """What stays the same for the whole of a run.

    Attributes:
        dataset: the training split, without the images that ``data.hold_out`` holds out.
        images: the images that views are drawn from: the whole split, then those of a pool.
        held_out: number of training images that are scored and not trained on.
        class_weights: id of a loss line -> class -> weight, where the run counted them.
    """

    checked: CheckedRecipe
    out: Path
    processes: Processes
    compute: Compute
    dataset: Dataset
    images: Dataset
    steps: Steps
    length: RunLength
    held_out: int = 0
    class_weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def numbers_of_images(self) -> dict[str, int]:
        """Return the keys ``images``, ``pool_images`` and ``held_out_images`` of summaries.

        The last two are only there where the run has a pool, or ``data.hold_out``.
        """
        pool = {"pool_images": self.steps.pool.length} if self.steps.pool else {}
        held_out = {"held_out_images": self.held_out} if self.held_out else {}
        return {"images": len(self.dataset)} | pool | held_out

    @property
    def device(self) -> torch.device:
        return self.processes.device
