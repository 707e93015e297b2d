"""Graphs over the cells of a feature map: affinity, kernels, degrees, Laplacians.

Pure functions on batches, heads apart. Nodes are ``[B, heads, N, d]``, graphs ``[B, heads, N, N]``
and symmetric, ``valid`` is ``[B, N]`` bool. Void nodes have zero rows and columns in every graph,
and enter no mean, norm or degree, so the rest is the graph of the valid nodes alone. Arithmetic is
float32, or float64 where the input is, under autocast too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Literal, ParamSpec, TypeVar

import torch
from torch import Tensor

from freqkd_cli.errors import RecipeError
from freqkd_cli.spectral.fourier import widened

GramKind = Literal["centred", "raw"]
Kernel = Literal["exp", "relu"]
LaplacianKind = Literal["normalized", "combinatorial"]

ROW_FLOOR = 1e-3
"""Rows shorter than this share of the root mean square of all centred rows fade to 0."""

FLAT = 1e-4
"""A map whose root mean square after centring is a smaller share of that before fades to 0.

So the rounding of a flat map is no graph.
"""

TINY = 1e-12
"""Mean squares of features below this are 0."""

DEGREE_FLOOR = 1e-6
"""A node with a smaller share of the largest degree of its graph is isolated.

It is a share, since the Laplacian is free of the edges' scale.
"""

P = ParamSpec("P")
R = TypeVar("R")


def unrounded(function: Callable[P, R]) -> Callable[P, R]:
    """Run with autocast off on the device of the first argument, a tensor."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.autocast(args[0].device.type, enabled=False):  # type: ignore[attr-defined]
            return function(*args, **kwargs)

    return run


def pairs(valid: Tensor, *, diagonal: bool = False) -> Tensor:
    """Return which entries of a graph relate valid nodes: ``[B, N]`` -> ``[B, 1, N, N]`` bool.

    The diagonal is left out by default.
    """
    both = valid[:, None, :, None] & valid[:, None, None, :]
    if diagonal:
        return both
    return both & ~torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)


def count(valid: Tensor) -> Tensor:
    """Return the number of valid nodes of each sample, at least 1, ``[B, 1]``."""
    return valid.sum(1, keepdim=True).clamp(min=1)


def picked(x: Tensor, heads: Tensor) -> Tensor:
    """Return those heads of ``[B, heads, ...]`` that have these numbers, ``[B, m]`` int64."""
    index = heads.reshape(*heads.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:])
    return x.gather(1, index)


def centred(nodes: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Subtract the mean over the valid nodes from node features, of void nodes too.

    Returns:
        the centred features ``[B, heads, N, d]``, their squared norms ``[B, heads, N]``, the mean
        of these over valid nodes ``[B, heads, 1]``, and a factor ``[B, heads, 1]``: 1, but 0 for
        flat features.
    """
    nodes = widened(nodes)
    nodes_of_each = count(valid)[:, None]
    # A sum, since a matrix product with the mask rounds more: a flat map would get a graph.
    mean = (nodes * valid[:, None, :, None]).sum(2, keepdim=True) / nodes_of_each[..., None]
    rows = nodes - mean
    square = rows.square().sum(-1)
    spread = (square * valid[:, None]).sum(2, keepdim=True) / nodes_of_each
    return rows, square, spread, not_flat(spread, mean.square().sum(-1))


def not_flat(spread: Tensor, offset: Tensor) -> Tensor:
    """Return 1 for features that vary, and a factor that falls to 0 where they are flat.

    A smooth step, so a flat map has no large gradient.

    Args:
        spread: mean square of the centred features.
        offset: square of their mean.
    """
    share = (spread / (FLAT**2 * (spread + offset) + TINY)).square()
    return share / (share + 1.0)


@unrounded
def graph_rows(nodes: Tensor, valid: Tensor, gram: GramKind = "centred") -> Tensor:
    """Return rows R of every node, ``[B, heads, N, d]``, such that R R^T is the graph.

    ``centred``: less the mean over valid nodes, of unit norm, so the graph holds cosines. A node
    near the mean has a shorter row, and a flat map (almost) zero rows, both with bounded gradients.
    ``raw``: the features over d^(1/4), so the graph is K K^T / sqrt(d) as in CASS (arXiv
    2411.17150, its released code at 228ecdd).
    """
    if gram == "raw":
        nodes = widened(nodes)
        return nodes * (valid.to(nodes.dtype) * nodes.shape[-1] ** -0.25)[:, None, :, None]
    rows, square, spread, factor = centred(nodes, valid)
    scale = valid[:, None] * factor * torch.rsqrt(square + ROW_FLOOR**2 * spread + TINY**2)
    return rows * scale[..., None]


@unrounded
def affinity(rows: Tensor) -> Tensor:
    """Return the graph R R^T of rows ``[B, heads, N, d]``, ``[B, heads, N, N]``."""
    return rows @ rows.mT


@unrounded
def symmetric(weights: Tensor, valid: Tensor) -> Tensor:
    """Return (A + A^T) / 2 between valid nodes, for a model's own graph (attention, affinity)."""
    weights = widened(weights).masked_fill(~pairs(valid, diagonal=True), 0.0)
    return (weights + weights.mT) / 2


@unrounded
def softmax_attention(queries: Tensor, keys: Tensor, valid: Tensor) -> Tensor:
    """Return softmax(Q K^T / sqrt(d)) over the valid nodes, ``[B, heads, N, N]``.

    Rows of void nodes too; :func:`symmetric` removes them.

    Args:
        queries, keys: ``[B, heads, N, d]``.
    """
    products = widened(queries) @ widened(keys).mT * keys.shape[-1] ** -0.5
    void = ~valid & valid.any(1, keepdim=True)  # a row without a valid node is even, not 0 / 0
    return products.masked_fill(void[:, None, None], -torch.inf).softmax(-1)


@unrounded
def kernel(graph: Tensor, valid: Tensor, kind: Kernel, tau: float = 0.1) -> Tensor:
    """Make a graph without negative edges and without self-loops from one of cosines.

    ``exp``: exp((cos - 1) / tau), which is exp(cos / tau) over its largest value e^(1 / tau), so
    edges lie in (0, 1] for any tau. ``relu``: max(cos, 0).
    """
    edges = torch.exp((graph - 1.0) / tau) if kind == "exp" else torch.relu(graph)
    return edges.masked_fill(~pairs(valid), 0.0)


def degree(graph: Tensor) -> Tensor:
    """Return the sum of every node's edges, ``[B, heads, N]``."""
    return graph.sum(-1)


def laplacian(graph: Tensor, kind: LaplacianKind = "normalized") -> Tensor:
    """Return D - W (``combinatorial``) or I - D^(-1/2) W D^(-1/2) (``normalized``).

    The normalized one has its spectrum in [0, 2]; void and isolated nodes are 0 (Chung 1997, 1.2).

    Raises:
        RecipeError: the graph has negative edges, so degrees have no meaning. Not on a GPU, which
            would have to be waited for: there the Laplacian is NaN.
    """
    negative = (graph < -1e-6).any()
    if graph.device.type != "cpu":
        graph = graph.masked_fill(negative, torch.nan)
    elif bool(negative):
        raise RecipeError(
            "a graph with negative edges has no Laplacian",
            got=f"edges from {float(graph.min()):.3g}",
            need="a kernel that leaves none",
            tip="kernel: exp (exp((cos - 1) / tau)), or kernel: relu",
            key="kernel",
        )
    degrees = degree(graph)
    if kind == "combinatorial":
        return torch.diag_embed(degrees) - graph
    linked = degrees > DEGREE_FLOOR * degrees.amax(-1, keepdim=True)
    root = torch.where(linked, torch.where(linked, degrees, 1.0).rsqrt(), 0.0)
    identity = torch.diag_embed(linked.to(graph.dtype))
    return identity - root[..., :, None] * graph * root[..., None, :]


@unrounded
def smoothness(
    nodes: Tensor, graph: Tensor, valid: Tensor, kind: LaplacianKind = "normalized"
) -> Tensor:
    """Return Tr(X^T L X) / Tr(X^T D X) of centred node features, ``[B, heads]``, in [0, 2].

    L = D - W of a graph without negative edges. 0: constant over connected nodes; 1: unrelated to
    the graph. Flat features give 0. The graph has as many heads as the features
    ``[B, heads, N, d]``, or one for all. ``combinatorial`` divides by Tr(X^T X): the mean
    eigenvalue of L over the energy of X, in the units of the edges.
    """
    x, square, spread, factor = centred(nodes, valid)
    degrees = degree(graph)
    across = (degrees * square).sum(-1) - (x * (graph @ x)).sum((-2, -1))
    weights = degrees if kind == "normalized" else valid[:, None].to(degrees.dtype)
    floor = ROW_FLOOR**2 * spread[..., 0] * weights.sum(-1) + TINY
    return factor[..., 0] * across / ((weights * square).sum(-1) + floor)
