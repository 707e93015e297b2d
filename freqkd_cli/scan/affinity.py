"""State affinity: which cell of a picture a selective scan reads for which other, exactly.

A scan is a matrix: ``y_i = sum_j M_ij u_j + D u_i`` with ``M_ij = sum_n C_i[n] exp(A_n (s_i - s_j)) step_j B_j[n]`` for j <= i, else 0, and
``s = cumsum(step)`` ("hidden attention": Ali, Zimerman and Wolf, arXiv 2403.01590). The exponent holds the *difference* of the cumulative
sums: a quotient of exponentials, as in VMamba's own tool, underflows after some hundred steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from freqkd_cli.scan.cross import cross_scan
from freqkd_cli.scan.selective import selective_scan

Grid = tuple[int, int]
AT_ONCE = 2**22  # entries of matrices that exist at the same time; one matrix, where that is more


def scan_matrix(step: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The signed M of every row, in the order of the scan: step ``[..., L]``, A ``[..., N]``, B and C ``[..., N, L]`` -> ``[..., L, L]``.

    Leading axes broadcast. In float32 (float64 where ``step`` is), but for the differences of sums, which are float64 until they are taken.
    """
    length = step.shape[-1]
    sums = step.double().cumsum(-1)
    past = (sums.unsqueeze(-1) - sums.unsqueeze(-2)).clamp(min=0).to(step.dtype)
    total = torch.zeros((), dtype=step.dtype, device=step.device)
    for n in range(A.shape[-1]):
        read, written = C[..., n, :].unsqueeze(-1), (step * B[..., n, :]).unsqueeze(-2)
        total = total + read * torch.exp(A[..., n, None, None] * past) * written
    return total * torch.ones(length, length, dtype=step.dtype, device=step.device).tril()


def raw_affinity(step: Tensor, A: Tensor, B: Tensor, C: Tensor, size: Grid) -> Tensor:
    """The signed matrices of a cross-scan in the order of the picture: entry (i, j) is what cell j gives to cell i, cells row-major.

    Args:
        step: ``[batch, 4 * c, L]``, L = H * W, as from :func:`freqkd_cli.scan.selective.step_sizes`: directions first, as in a scan.
        A: ``[4 * c, N]``; B, C: ``[batch, 4, N, L]``.
        size: (H, W).

    Returns:
        ``[batch, 4, c, L, L]``: all of them, so L^2 * 4 c numbers an image. For pictures use :func:`state_affinity`.
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
    """A row-stochastic graph of a picture's nodes from a cross-scan's tensors: ``[batch, nodes, nodes]``.

    |M|, its mean over ``channels`` evenly spaced channels of every direction, the sum of the four directions, then nodes: a node's row is
    the mean of its cells' rows, its column their sum (a cell on a border is shared by area), and every row is divided by its sum.
    Departure: this project's formula sheet divides the cells' rows before they are pooled. That needs all L^2 numbers; a row of many cells
    that look far counts for more here. On a random scan of 12x16 cells and 3x4 nodes the two differ by 3 %, their correlation is 0.9992.
    With one state (N = 1) no matrix is made, see :func:`_scanned`: a channel costs 4 L nodes numbers instead of 4 L^2.
    Differentiable; the pass back computes everything again. However many channels and images there are, AT_ONCE numbers are made at a
    time (or those of one matrix, or of one channel's scans, where they are more), at most 50 + 8 N bytes each in training and 20 without
    gradients.

    Args:
        step, A, B, C, size: as in :func:`raw_affinity`.
        pooling: ``[nodes, L]``, the share of every cell, row-major, in the mean of each node; nodes of one size.
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
    """:func:`_pooled` of all directions for one state, where |M| is the matrix of a scan too: the one of |B| and |C|.

    What a node gives to every cell is then the scan of that node's cells, ``[batch, 4, c, L]``, ... and ``of_scan`` ``[4, nodes, L]``.
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
    """The function's value; what it made on the way is not kept for the pass back, but made again."""
    return (
        checkpoint(function, *given, use_reentrant=False, preserve_rng_state=False)
        if torch.is_grad_enabled()
        else function(*given)
    )


def _pooled(step: Tensor, A: Tensor, B: Tensor, C: Tensor, pooling: Tensor) -> Tensor:
    """Sum over channels of |M|, between nodes: ``[batch, c, L]``, ... and ``pooling`` ``[nodes, L]`` -> ``[batch, nodes, nodes]``.

    Columns are averaged like rows: with nodes of one size that is their sum but for a factor, which a graph whose rows sum to 1 has not.
    """
    total = scan_matrix(step, A, B.unsqueeze(1), C.unsqueeze(1)).abs().sum(1)
    return pooling @ total @ pooling.T


def evenly_spaced(count: int, wanted: int, device: torch.device | str = "cpu") -> Tensor:
    """``min(count, wanted)`` different numbers below ``count``, the middles of equal parts. No randomness: a graph must not flicker."""
    parts = min(count, wanted)
    return (torch.arange(parts, device=device) * 2 + 1) * count // (2 * parts)


def _places(size: Grid, device: torch.device) -> Tensor:
    """``[4, L]``: where in the sequence of every direction each cell of the picture stands."""
    cells = torch.arange(size[0] * size[1], device=device).view(1, 1, *size)
    return cross_scan(cells)[0, :, 0].argsort(-1)
