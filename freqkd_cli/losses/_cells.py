"""Classes of the cells of a feature map, from the label image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from freqkd_cli.errors import RecipeError
from freqkd_cli.features.loss import Grid
from freqkd_cli.views.batch import Batch


def cell_labels(batch: Batch, grid: Grid, loss: str) -> Tensor:
    """Return the label of each cell, ``[B, h * w]``, that of the top left pixel of the cell.

    Args:
        loss: name of the loss, for the message.

    Raises:
        RecipeError: the images have no labels.
    """
    if batch.labels is None:
        raise RecipeError(
            f"{loss} needs labels",
            got="a data set without labels",
            tip="remove this loss, or add the masks",
        )
    labels = F.interpolate(batch.labels[:, None].float(), size=tuple(grid), mode="nearest")
    return labels.flatten(1).long()


def one_hot(labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Return 1 for the class of each cell, ``[B, K, n]``; void cells have zeros alone."""
    numbers = torch.arange(classes, device=labels.device)
    return (labels[:, None] == numbers[:, None]).to(dtype)
