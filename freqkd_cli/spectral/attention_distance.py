"""The reach of a graph over patches: the mean distance, in image pixels, of related patches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from freqkd_cli.errors import ShapeError
from freqkd_cli.spectral.fourier import widened


def attention_distance(graph: Tensor, grid: Sequence[int], stride: int) -> Tensor:
    """Return the mean over queries i of sum_j A_ij |p_i - p_j|, ``[B, heads]`` in image pixels.

    p are the centres of the cells. This is the mean attention distance of Dosovitskiy et al. (arXiv
    2010.11929, figure 7). Each row is divided by its sum. This changes nothing where rows are
    stochastic, and makes a state affinity comparable. A query without any weight does not count.

    Args:
        graph: ``[B, heads, N, N]``, not negative; rows are queries.
        grid: (h, w) of the nodes, N = h * w, row by row.
        stride: image pixels from one node to the next.

    Raises:
        ShapeError: the graph does not have the grid's number of nodes, or has negative weights.
    """
    rows, columns = grid
    nodes = rows * columns
    if graph.ndim != 4 or tuple(graph.shape[-2:]) != (nodes, nodes):
        raise ShapeError(
            "the graph is not one over this grid",
            got=tuple(graph.shape),
            need=f"[B, heads, {nodes}, {nodes}]",
        )
    if bool((graph < 0).any()):
        raise ShapeError(
            "weights under 0 have no mean distance",
            got=f"{float(graph.min()):g}",
            need="attention, or |affinity|",
        )
    with torch.autocast(graph.device.type, enabled=False):
        weights = widened(graph)
        places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).to(weights)
        sums = weights.sum(-1)
        reach = (
            weights * torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist")
        ).sum(-1)
        some = sums > 0
        mean = torch.where(some, reach / torch.where(some, sums, 1.0), 0.0)
        return stride * mean.sum(-1) / some.sum(-1).clamp(min=1)
