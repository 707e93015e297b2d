"""The tensors on which the code of the authors of each rival was run, for golden numbers."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from freqkd_cli import registry
from freqkd_cli.features.loss import Loss
from freqkd_cli.features.taps import Tap
from freqkd_cli.views.batch import Batch

CLASSES, GRID, CHANNELS = 3, (5, 6), (4, 6)


def tensors(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Taps of student and teacher ``[2, C, 5, 6]``, and labels ``[2, 20, 24]`` with void."""
    rng = np.random.default_rng((7, seed))
    student, teacher = (torch.from_numpy(rng.standard_normal((2, c, *GRID))) for c in CHANNELS)
    labels = rng.integers(0, CLASSES, (2, GRID[0] * 4, GRID[1] * 4))
    labels[rng.random(labels.shape) < 0.2] = 255
    return student, teacher, torch.from_numpy(labels)


def large_tensors() -> tuple[Tensor, Tensor]:
    """Taps of student and teacher ``[2, C, 32, 48]``."""
    rng = np.random.default_rng(8)
    student, teacher = (torch.from_numpy(rng.standard_normal((2, c, 32, 48))) for c in (3, 8))
    return student, teacher


def mask_draws(teacher: Tensor) -> Tensor:
    """Uniform numbers for a random mask, ``[B, 1, h, w]``."""
    rng = np.random.default_rng(9)
    return torch.from_numpy(rng.random((len(teacher), 1, *teacher.shape[-2:])))


def fill(*parameters: Tensor) -> None:
    """Replace parameters by known numbers, as small as they are at the start of a training."""
    rng = np.random.default_rng(10)
    with torch.no_grad():
        for x in parameters:
            x.copy_(torch.from_numpy(0.3 * rng.standard_normal(tuple(x.shape))))


def fill_memory(*memories: Tensor) -> None:
    """Replace memories ``[K, size, C]`` by known unit vectors."""
    fill(*memories)
    with torch.no_grad():
        for x in memories:
            x.div_(torch.linalg.vector_norm(x, dim=2, keepdim=True))


def batch_of(labels: Tensor | None, grid: tuple[int, int] = GRID, number: int = 2) -> Batch:
    """A batch whose labels are these; without labels, of one pixel for each cell of the grid."""
    size = tuple(grid if labels is None else labels.shape[-2:])
    number = number if labels is None else len(labels)
    return Batch(
        torch.zeros(number, 3, *size),
        labels,
        torch.ones(number, *size, dtype=torch.bool),
        torch.arange(number),
        torch.zeros(number, dtype=torch.long),
    )


def started(name: str, student: Tensor, teacher: Tensor, stride: int = 1, **arguments) -> Loss:
    """The loss of the taps ``s`` and ``t`` with the channels of these maps, in float64."""
    loss = registry.find("losses", name).build(student="s", teacher="t", **arguments)
    torch.manual_seed(0)
    loss.start(
        {"s": Tap("s", stride, student.shape[1])},
        {"t": Tap("t", stride, teacher.shape[1])},
        CLASSES,
    )
    return loss.double()


def value(loss: Loss, student: Tensor, teacher: Tensor, batch: Batch, step: int = 0) -> Tensor:
    """What the loss gives with the target that it makes itself."""
    target = loss.target({"t": teacher}, batch, {"s": tuple(student.shape[-2:])})
    return loss({"s": student}, target, batch, step)
