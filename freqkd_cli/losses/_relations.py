"""Relations between pixels, as softmax over cosines, and their divergence. Pure functions."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from freqkd_cli.features.loss import Grid

LARGE, WINDOW = 256, 4
"""Cells per axis from which pixels of a batch are averaged, and the side of the windows."""


def is_large(grid: Grid) -> bool:
    """Return whether the pixels of a grid are averaged before they are compared."""
    return min(grid) >= LARGE


def averaged(x: Tensor) -> Tensor:
    """Return the means of 4x4 cells, ``[B, C, h, w]`` -> ``[B, C, h / 4, w / 4]``, rounded up."""
    return F.avg_pool2d(x, WINDOW, WINDOW, ceil_mode=True)


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(softmax of the teacher || softmax of the student) over the last axis, summed."""
    return F.kl_div(
        F.log_softmax(student, -1), F.log_softmax(teacher, -1), reduction="sum", log_target=True
    )


def between_images(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the divergence of relations with the pixels of each image, the mean over all pairs.

    It is computed image by image, since all pairs at once need B times the memory.

    Args:
        student, teacher: pixels ``[B, n, C]`` of unit norm; C may differ.
    """
    images, pixels, _ = student.shape
    total = student.new_zeros(())
    for i in range(images):
        own, other = (
            (x[i] @ x.flatten(0, 1).T / temperature).unflatten(1, (images, pixels))
            for x in (student, teacher)
        )
        total = total + divergence(own, other)
    return total / (pixels * images**2)
