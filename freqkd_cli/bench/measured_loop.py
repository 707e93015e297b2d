"""The training loop that a bench measures, and how its times are read."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from freqkd_cli.runtime.processes import join
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.train.loop import Loop
from freqkd_cli.train.preparation import make_loop
from freqkd_cli.train.run_log import Unwritten

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import Recipe

WARM_UP = 2
"""Steps that do not count: they reserve memory and choose kernels."""

LONG = 100_000
"""Steps of the measured run, so that its learning rate stays that of a run's first steps."""


@dataclasses.dataclass(frozen=True)
class BenchOptions:
    """``steps`` are measured, and with ``against_ce`` as many pairs with a cross-entropy step."""

    cache: Path | None = None
    steps: int = 10
    against_ce: bool = True
    device: str | None = None


def measured_loop(recipe: Recipe, options: BenchOptions, cache: Path | None) -> Loop:
    """Return the loop of ``distill`` for a recipe, long enough that its schedule stands still."""
    train = recipe.train.model_copy(
        update={"epochs": None, "steps": LONG, "extend": None, "eval_every": 0}
    )
    loop = make_loop(
        dataclasses.replace(recipe, train=train),
        Path("bench"),
        Silent(),
        join(options.device),
        cache,
    )
    loop.log = Unwritten()
    return loop


def synchronizer(device: torch.device) -> Callable[[], None] | None:
    """Return a call that waits for queued work of a device; None on a CPU."""
    return None if device.type == "cpu" else lambda: torch.accelerator.synchronize(device)


def quartiles(values: Sequence[float], factor: float = 1.0) -> dict[str, float]:
    """Return median and quartiles."""
    low, median, high = (
        statistics.quantiles(values, n=4, method="inclusive")
        if len(values) > 1
        else [values[0]] * 3
    )
    return {
        "median": round(median * factor, 3),
        "low": round(low * factor, 3),
        "high": round(high * factor, 3),
    }
