"""The teacher's half of the losses: the protocol of its sources, and how taps become targets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, Protocol

import torch
from torch import Tensor

from freqkd_cli.errors import RecipeError
from freqkd_cli.features.loss import Grid, Loss
from freqkd_cli.features.taps import Tap, stored_as
from freqkd_cli.runtime.ranges import named_range
from freqkd_cli.views.batch import Batch

Targets = dict[str, dict[str, Tensor]]
"""Loss id -> the tensors that its ``target`` returned."""

TapsByLoss = dict[str, dict[str, str]]
"""Loss id -> the teacher taps that it reads: its own name of a tap -> the stored name."""

Content = Literal["taps", "targets"]


class Source(Protocol):
    """A source of targets. The training loop cannot tell one from another.

    Attributes:
        name: for the log and the summary.
    """

    name: str

    def start(self, batch: Batch) -> list[Tensor]:
        """Start copies of what :meth:`targets` of this batch will read; return those tensors."""
        ...

    def targets(self, batch: Batch, grids: Mapping[str, Grid]) -> Targets:
        """Return the targets of every loss: float32, on the batch's device, without gradient."""
        ...


class NoTeacher:
    """The source of a recipe in which no loss reads a teacher."""

    name = "none"

    def start(self, batch: Batch) -> list[Tensor]:
        return []

    def targets(self, batch: Batch, grids: Mapping[str, Grid]) -> Targets:
        return {}


@torch.no_grad()
def compute_targets(
    losses: Mapping[str, Loss],
    taps_by_loss: TapsByLoss,
    taps: Mapping[str, Tensor],
    batch: Batch,
    grids: Mapping[str, Grid],
) -> Targets:
    """Return the targets of every loss from float32 taps; empty where a loss reads no teacher tap.

    Raises:
        RecipeError: a target has no row for every sample.
    """
    targets: Targets = {}
    for id, loss in losses.items():
        targets[id] = {}
        if not taps_by_loss[id]:
            continue
        read = {name: taps[stored] for name, stored in taps_by_loss[id].items()}
        autocast_off = torch.autocast(batch.images.device.type, enabled=False)
        with named_range(f"losses.{id}.target"), autocast_off:
            targets[id] = loss.target(read, batch, grids)
        for name, tensor in targets[id].items():
            if tensor.ndim < 1 or tensor.shape[0] != len(batch):
                raise RecipeError(
                    f"the target {name} of {id} has no row for every sample",
                    got=tuple(tensor.shape),
                    need=f"{len(batch)} rows",
                )
    return targets


def read_taps(losses: Mapping[str, Loss], available: Mapping[str, Tap]) -> TapsByLoss:
    """Return the teacher taps that every loss reads, aliases resolved."""
    return {
        id: {name: stored_as(name, available) for name in loss.teacher_taps(available)}
        for id, loss in losses.items()
    }


def union(taps: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """Return every name once, sorted, so that the order of the losses does not matter."""
    return tuple(sorted({name for names in taps for name in names}))
