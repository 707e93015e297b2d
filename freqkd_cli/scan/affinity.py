"""State affinity: how much each cell of an image contributes to each other in a selective scan.

A scan is a matrix: ``y_i = sum_j M_ij u_j + D u_i`` with ``M_ij = sum_n C_i[n] exp(A_n (s_i - s_j))
step_j B_j[n]`` for j <= i, else 0, and ``s = cumsum(step)`` ("hidden attention": Ali, Zimerman and
Wolf, arXiv 2403.01590). The exponent holds the *difference* of the cumulative sums: a quotient of
exponentials, as in VMamba's own tool, underflows after some hundred steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from freqkd_cli.runtime.precision import widest
from freqkd_cli.scan.cross import cross_scan
from freqkd_cli.scan.selective import selective_scan

Grid = tuple[int, int]
AT_ONCE = 2**22  # entries of matrices that exist at the same time, or one matrix if that is more


def scan_matrix(step: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Return the signed M of every row, in the order of the scan, ``[..., L, L]``.

    Leading axes broadcast. In float32 (float64 where ``step`` is). The sums are float64 until their
    differences are taken.

    Args:
        step: ``[..., L]``; A: ``[..., N]``; B, C: ``[..., N, L]``.
    """
    length = step.shape[-1]
    sums = widest(step).cumsum(-1)
    past = (sums.unsqueeze(-1) - sums.unsqueeze(-2)).clamp(min=0).to(step.dtype)
    total = torch.zeros((), dtype=step.dtype, device=step.device)
    for n in range(A.shape[-1]):
        read, written = C[..., n, :].unsqueeze(-1), (step * B[..., n, :]).unsqueeze(-2)
        total = total + read * torch.exp(A[..., n, None, None] * past) * written
    return total * torch.ones(length, length, dtype=step.dtype, device=step.device).tril()


def raw_affinity(step: Tensor, A: Tensor, B: Tensor, C: Tensor, size: Grid) -> Tensor:
    """Return the signed matrices of a cross-scan in the order of the image, cells row-major.

    Entry (i, j) is the contribution of cell j to cell i.

    Args:
        step: ``[batch, 4 * c, L]``, L = H * W, as from
            :func:`freqkd_cli.scan.selective.step_sizes`: directions first, as in a scan.
        A: ``[4 * c, N]``; B, C: ``[batch, 4, N, L]``.
        size: (H, W).

    Returns:
        ``[batch, 4, c, L, L]``, L^2 * 4 c numbers an image. Use :func:`state_affinity` for images.
    """
    step, A = step.unflatten(1, (4, -1)), A.unflatten(0, (4, -1))
    matrices = scan_matrix(step, A, B.unsqueeze(2), C.unsqueeze(2))
    places = _places(size, step.device)
    return torch.stack([matrices[:, k][..., at, :][..., at] for k, at in enumerate(places)], dim=1)


def state_affinity(
    step: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    size: Grid,
    pooling: Tensor,
    channels: int = 32,
) -> Tensor:
    """Return a row-stochastic graph of an image's nodes, ``[batch, nodes, nodes]``.

    It is the mean of |M| over ``channels`` evenly spaced channels of every direction, summed over
    the four directions and pooled to nodes. A node's row is the mean of its cells' rows, its column
    their sum (a cell on a border is shared by area). Then every row is divided by its sum.

    Departure from a division of the cells' rows before the pooling, which needs all L^2 numbers: a
    row of many distant cells counts for more here. On a random scan of 12x16 cells and 3x4 nodes
    the two differ by 3 %; their correlation is 0.9992.

    With one state (N = 1) no matrix is made, see :func:`_scanned`: a channel costs 4 L nodes
    numbers instead of 4 L^2. Differentiable; the backward pass computes everything again. At most
    AT_ONCE numbers exist at a time (or those of one matrix, or of one channel's scans, if they are
    more), at most 50 + 8 N bytes each in training and 20 without gradients.

    Args:
        step, A, B, C, size: as in :func:`raw_affinity`.
        pooling: ``[nodes, L]``, the share of every cell, row-major, in the mean of each node; nodes
            of one size.
    """
    step, A = step.unflatten(1, (4, -1)), A.unflatten(0, (4, -1))
    chosen = evenly_spaced(step.shape[2], channels, step.device)
    of_scan = (
        pooling.to(step.dtype)[:, _places(size, step.device).argsort(-1)]
        .transpose(0, 1)
        .contiguous()
    )
    one = A.shape[-1] == 1
    entries = of_scan.numel() if one else (size[0] * size[1]) ** 2
    images, rows = max(1, AT_ONCE // (entries * len(chosen))), max(1, AT_ONCE // entries)
    sums = _by_scans if one else _by_matrices
    parts = zip(step.split(images), B.split(images), C.split(images), strict=True)
    graph = torch.cat([sums(step, A, B, C, of_scan, chosen.split(rows)) for step, B, C in parts])
    return graph / graph.sum(-1, keepdim=True).clamp(min=torch.finfo(graph.dtype).tiny)


def _by_matrices(
    step: Tensor, A: Tensor, B: Tensor, C: Tensor, of_scan: Tensor, parts: Sequence[Tensor]
) -> Tensor:
    return sum(
        _again(_pooled, step[:, k, some], A[k, some], B[:, k], C[:, k], of_scan[k])
        for k in range(4)
        for some in parts
    )


def _by_scans(
    step: Tensor, A: Tensor, B: Tensor, C: Tensor, of_scan: Tensor, parts: Sequence[Tensor]
) -> Tensor:
    return sum(_again(_scanned, step[:, :, some], A[:, some], B, C, of_scan) for some in parts)


def _scanned(step: Tensor, A: Tensor, B: Tensor, C: Tensor, of_scan: Tensor) -> Tensor:
    """Return :func:`_pooled` of all directions for one state.

    There |M| is the matrix of a scan too, that of |B| and |C|. So a node's contribution to every
    cell is the scan of that node's cells, ``[batch, 4, c, L]``; ``of_scan`` is ``[4, nodes, L]``.
    """
    batch, _, channels, length = step.shape
    rows = (batch, 4, channels, of_scan.shape[1], length)
    given = of_scan[:, None].expand(rows).flatten(1, 3)
    rates = A.expand(rows[1:4]).reshape(-1, 1)
    steps = step.unsqueeze(3).expand(rows).flatten(1, 3)
    taken = selective_scan(
        given, steps, rates, B.abs(), C.abs(), torch.zeros_like(rates[:, 0]), delta_softplus=False
    )
    return torch.einsum("kal,bknl->ban", of_scan, taken.unflatten(1, rows[1:4]).sum(2))


def _again(function: Callable[..., Tensor], *given: Tensor) -> Tensor:
    """Return the function's value; the backward pass computes its intermediates again."""
    return (
        checkpoint(function, *given, use_reentrant=False, preserve_rng_state=False)
        if torch.is_grad_enabled()
        else function(*given)
    )


def _pooled(step: Tensor, A: Tensor, B: Tensor, C: Tensor, pooling: Tensor) -> Tensor:
    """Return the sum over channels of |M| between nodes, ``[batch, nodes, nodes]``.

    Columns are averaged like rows. With nodes of one size that is their sum up to a factor, which
    cancels when rows are divided by their sums.

    Args:
        step: ``[batch, c, L]``.
        pooling: ``[nodes, L]``.
    """
    total = scan_matrix(step, A, B.unsqueeze(1), C.unsqueeze(1)).abs().sum(1)
    return pooling @ total @ pooling.T


def evenly_spaced(count: int, wanted: int, device: torch.device | str = "cpu") -> Tensor:
    """Return ``min(count, wanted)`` different numbers below ``count``, the middles of equal parts.

    There is no randomness: a graph must not flicker.
    """
    parts = min(count, wanted)
    return (torch.arange(parts, device=device) * 2 + 1) * count // (2 * parts)


def _places(size: Grid, device: torch.device) -> Tensor:
    """Return the place of each cell of the image in the sequence of every direction, ``[4, L]``."""
    cells = torch.arange(size[0] * size[1], device=device).view(1, 1, *size)
    return cross_scan(cells)[0, :, 0].argsort(-1)
