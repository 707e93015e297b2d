"""The student and its losses as one module, so that one wrapper (many processes, autocast) covers both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from freqkd_cli.build.schedules import loss_weight
from freqkd_cli.errors import TrainingFailed
from freqkd_cli.features.loss import Loss
from freqkd_cli.views.batch import Batch


@dataclass(frozen=True)
class Line:
    """One line of the recipe's ``losses``: a loss, its weight, and the taps it reads on either side."""

    id: str
    loss: Loss
    weight: float
    warmup: float
    student_taps: tuple[str, ...]
    teacher_taps: tuple[str, ...]
    compared: tuple[int, ...] | None = None
    """Numbers of the classes that a loss of class scores compares, where a class map does not cover all of them."""

    def student(self, taps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the loss reads of the student."""
        found = {name: taps[name] for name in self.student_taps}
        if self.compared is not None:
            found["logits"] = found["logits"][:, list(self.compared)]
        return found

    def value(
        self, taps: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int
    ) -> Tensor:
        """The raw loss.

        Raises:
            TrainingFailed: it cannot be computed; the line and its taps are named.
        """
        try:
            return self.loss(self.student(taps), target, batch, step)
        except TrainingFailed as error:
            what = f"{self.id}, of the student's {' and '.join(self.student_taps)}: {error.what}"
            raise TrainingFailed(what, got=error.got, need=error.need, tip=error.tip) from error


class Objective(nn.Module):
    """``L = sum over lines of weight(step) * loss``; a line of weight 0 was never made (see ``assemble``).

    Parameters of losses (adapters, learned filters) live here and are trained, saved in ``state/`` and never exported.
    """

    def __init__(
        self, student: nn.Module, lines: tuple[Line, ...], autocast: torch.autocast
    ) -> None:
        super().__init__()
        self.student = student
        self.losses = nn.ModuleDict({line.id.replace(".", "_"): line.loss for line in lines})
        self.lines = lines
        self.autocast = autocast
        self.wanted = tuple(
            dict.fromkeys(name for line in lines for name in line.student_taps if name != "logits")
        )

    def forward(
        self,
        batch: Batch,
        targets: Mapping[str, Mapping[str, Tensor]],
        step: int,
        total_steps: int,
        shares: Sequence[float] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and every term raw under its id.

        Args:
            shares: what each line's value is multiplied by where this is a part of a batch, see ``whole_batch.shares``.
        """
        with self.autocast:
            taps = self.student(batch.images, taps=self.wanted)
        terms: dict[str, Tensor] = {}
        total: Tensor | None = None
        # Losses decide their own precision (spectra need float32), so autocast must be off for them.
        with torch.autocast(batch.images.device.type, enabled=False):
            for line, share in zip(self.lines, shares or [1.0] * len(self.lines), strict=True):
                value = line.value(taps, targets.get(line.id, {}), batch, step)
                value = value if share == 1.0 else value * share
                weighted = value * loss_weight(line.weight, line.warmup, step, total_steps)
                total = weighted if total is None else total + weighted
                terms[line.id] = value.detach()
        assert total is not None
        return total, terms
