"""What a run trains: the objective, its optimizer and the averaged weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from freqkd_cli.build.objective import Objective
from freqkd_cli.errors import CheckpointDamaged, quoted
from freqkd_cli.recipe.learning_rate import rate_factor

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import Train


def make_optimizer(objective: nn.Module, train: Train) -> torch.optim.Optimizer:
    """Return AdamW or SGD over the student and the losses' own parameters.

    Vectors, and parameters that a model marks ``no_weight_decay``, get no weight decay.
    """
    parameters = [p for p in objective.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [], "weight_decay": train.weight_decay},
        {"params": [], "weight_decay": 0.0},
    ]
    for parameter in parameters:
        exempt = parameter.ndim <= 1 or getattr(parameter, "no_weight_decay", False)
        groups[exempt]["params"].append(parameter)
    groups = [group for group in groups if group["params"]]
    if train.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=train.lr, momentum=train.momentum, fused=True)
    return torch.optim.AdamW(groups, lr=train.lr, fused=True)


class Average:
    """Exponential moving average of a student's floating-point state (Polyak averaging).

    The decay is min(decay, (1 + n) / (10 + n)) after n updates, so that a short run is not held
    at its initial weights. Integer buffers are copied.

    Not ``torch.optim.swa_utils.AveragedModel``: its first update copies the weights, so the ramp
    would start elsewhere; it averages integer buffers; and its counter on a GPU would have to be
    read at every step to compute the ramp.
    """

    def __init__(self, student: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.state = {
            name: tensor.detach().clone() for name, tensor in student.state_dict().items()
        }

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """Move the average towards the student's present state."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, tensor in student.state_dict().items():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor, 1 - decay)
            else:
                self.state[name].copy_(tensor)


@dataclass
class Training:
    """Everything that changes while a run trains, and how it goes to a checkpoint and back.

    ``best`` and ``last`` are ``{"miou": ..., "step": ...}`` after the first evaluation.
    """

    objective: Objective
    optimizer: torch.optim.Optimizer
    average: Average | None
    step: int = 0
    best: dict[str, float] | None = None
    last: dict[str, float] | None = None

    def prepare(self, train: Train, total_steps: int, process: int) -> float:
        """Set the learning rate, the random numbers and the modes of a step; return the rate."""
        rate = train.lr * rate_factor(
            self.step,
            total_steps,
            kind=train.schedule,
            warmup=train.warmup,
            power=train.power,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Dropout and drop path are keyed by the step, so a resumed run draws what an undisturbed
        # one would, and by the process, so that no two processes draw the same.
        torch.manual_seed(train.seed * 1_000_003 + self.step + process * 1_000_000_007)
        self.objective.student.train()
        if train.freeze_student:
            hold(self.objective.student)
        elif train.freeze_norm:
            freeze_norms(self.objective.student)
        return rate

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Load the averaged weights, which are scored and deployed, into the student for a while.

        On exit the student gets its trained weights back.
        """
        if self.average is None:
            yield
            return
        student = self.objective.student
        trained = {name: tensor.clone() for name, tensor in student.state_dict().items()}
        student.load_state_dict(self.average.state)
        try:
            yield
        finally:
            student.load_state_dict(trained)

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of a checkpoint under its name in the file."""
        tensors = {
            f"objective.{name}": tensor for name, tensor in self.objective.state_dict().items()
        }
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer.{number}.{key}": value
                for key, value in state.items()
                if isinstance(value, Tensor)
            }
        if self.average:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.state.items()}
        return tensors

    def facts(self) -> dict[str, Any]:
        """Return what a checkpoint holds besides tensors and its step."""
        return {
            "best": self.best,
            "last": self.last,
            "average_updates": self.average.updates if self.average else 0,
        }

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Load the state of a checkpoint.

        Raises:
            CheckpointDamaged: the checkpoint belongs to another student, loss or optimizer.
        """
        parts: dict[str, dict[str, Tensor]] = {"objective": {}, "optimizer": {}, "average": {}}
        try:
            for name, tensor in tensors.items():
                head, _, rest = name.partition(".")
                parts[head][rest] = tensor
            self.objective.load_state_dict(parts["objective"])
            self._restore_optimizer(parts["optimizer"])
            if self.average:
                for name, tensor in self.average.state.items():
                    tensor.copy_(parts["average"][name])
                self.average.updates = facts["average_updates"]
            self.step, self.best, self.last = facts["step"], facts["best"], facts["last"]
        except (RuntimeError, KeyError, ValueError, IndexError) as error:
            raise CheckpointDamaged(
                "the checkpoint does not fit this recipe's student, losses and optimizer",
                got=quoted(error),
                tip="--overwrite to start again, or another --out",
            ) from error

    def _restore_optimizer(self, tensors: dict[str, Tensor]) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            number, _, key = name.partition(".")
            like = parameters[int(number)]
            # The fused kernels walk memory, not indices, so a state must have the memory layout of
            # its parameter. Files are always contiguous.
            laid_out = (
                torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
                if tensor.shape == like.shape
                else tensor
            )
            state.setdefault(int(number), {})[key] = laid_out
        self.optimizer.load_state_dict(
            {"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]}
        )


def freeze_norms(student: nn.Module) -> None:
    """Keep the statistics of every BatchNorm, so a sample's output does not depend on its batch."""
    for module in student.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def hold(student: nn.Module) -> None:
    """Put a student in evaluation mode, and keep the outputs that it has in training mode alone.

    No statistic moves and no dropout is drawn, yet losses can read the auxiliary heads.
    """
    student.eval()
    student.training = True
