"""The student and its losses as one module, so one wrapper (processes, autocast) covers both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from freqkd_cli.build.schedules import loss_weight
from freqkd_cli.errors import TrainingFailed
from freqkd_cli.features.loss import Loss
from freqkd_cli.runtime.constants import constant
from freqkd_cli.views.batch import Batch


@dataclass(frozen=True)
class Line:
    """One line of the recipe's ``losses``: a loss, its weight, and the taps of either side.

    Attributes:
        compared: numbers of the classes that a loss of class scores compares, where
            ``teacher.class_map`` does not cover all of them.
    """

    id: str
    loss: Loss
    weight: float
    warmup: float
    student_taps: tuple[str, ...]
    teacher_taps: tuple[str, ...]
    compared: tuple[int, ...] | None = None
    decay: float = 0.0

    def weight_at(self, step: int, total_steps: int) -> float:
        """Return the weight at ``step`` (0-based)."""
        return loss_weight(self.weight, self.warmup, self.decay, step, total_steps)

    def student(self, taps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the student's tensors that the loss reads.

        Auxiliary logits exist in training mode alone: a student in evaluation mode has none.
        """
        tensors = {name: taps[name] for name in self.student_taps if name in taps}
        if self.compared is not None:
            logits = tensors["logits"]
            tensors["logits"] = logits[:, constant(self.compared, torch.int64, logits.device)]
        return tensors

    def failure(self, error: TrainingFailed) -> TrainingFailed:
        """Return the error of this line's loss with the line and its taps named."""
        what = f"{self.id}, of the student's {' and '.join(self.student_taps)}: {error.what}"
        return TrainingFailed(what, got=error.got, need=error.need, tip=error.tip, key=error.key)


class Objective(nn.Module):
    """``L = sum over lines of weight(step) * loss``.

    A line of weight 0 was never made (see ``assemble``). Parameters of losses (adapters, learned
    filters) live here. They are trained, saved in ``state/`` and never exported.
    """

    def __init__(
        self, student: nn.Module, lines: tuple[Line, ...], autocast: torch.autocast
    ) -> None:
        super().__init__()
        self.student = student
        # A list, because a ModuleDict refuses keys such as "keys" or "type".
        self.line_losses = nn.ModuleList(line.loss for line in lines)
        self.lines = lines
        self.autocast = autocast
        self.wanted = tuple(
            dict.fromkeys(name for line in lines for name in line.student_taps if name != "logits")
        )
        self.register_load_state_dict_pre_hook(_with_current_names)

    def forward(
        self,
        batch: Batch,
        targets: Mapping[str, Mapping[str, Tensor]],
        step: int,
        total_steps: int,
        shares: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum, and every term raw under its id.

        Args:
            shares: ``[lines]``, what each line's value is multiplied by where this batch is a part
                of a larger one, see ``whole_batch.shares``.

        Raises:
            TrainingFailed: a loss cannot be computed; its line and taps are named.
        """
        with self.autocast:
            taps = self.student(batch.images, taps=self.wanted)
        for name in self.wanted:
            if name in taps:
                _keep_layout(taps[name])
        terms: dict[str, Tensor] = {}
        total = taps["logits"].new_zeros((), dtype=torch.float32)
        # Losses decide their own precision (spectra need float32), so autocast is off for them.
        with torch.autocast(batch.images.device.type, enabled=False):
            for number, line in enumerate(self.lines):
                try:
                    value = line.loss(line.student(taps), targets.get(line.id, {}), batch, step)
                except TrainingFailed as error:
                    raise line.failure(error) from error
                value = value if shares is None else value * shares[number].to(value.dtype)
                total = total + value * line.weight_at(step, total_steps)
                terms[line.id] = value.detach()
        return total, terms


def _keep_layout(tap: Tensor) -> None:
    """Bring the gradient of a channels_last tap to the same layout, once and before it goes on.

    The student's backward pass would otherwise convert it at a slower place: 2.5 % of a cached
    step of ``fastscnn_basic`` on one CPU core.
    """
    if tap.requires_grad and tap.dim() == 4:
        if tap.is_contiguous(memory_format=torch.channels_last):
            tap.register_hook(lambda g: g.contiguous(memory_format=torch.channels_last))


def _with_current_names(
    objective: Objective, state: dict[str, Any], prefix: str, *_: object
) -> None:
    """Rename the tensors of a checkpoint that holds ``losses.ID.name``, as versions before did."""
    for number, line in enumerate(objective.lines):
        before, now = f"{prefix}losses.{line.id}.", f"{prefix}line_losses.{number}."
        for name in [name for name in state if name.startswith(before)]:
            rest = name.removeprefix(before).replace("ours.project", "student_side.project")
            state[now + rest] = state.pop(name)
