"""Graphs over the cells of a feature map: affinity, kernels, degrees, Laplacians. Pure functions on batches, heads apart.

Nodes are ``[B, heads, N, d]``, graphs ``[B, heads, N, N]`` and symmetric, ``valid`` is ``[B, N]`` bool. Void nodes have zero rows and
columns in every graph, and enter no mean, norm or degree: what is left is the graph of the valid nodes alone.
Arithmetic is float32, or float64 where the input is, whatever autocast says.
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
LaplacianKind = Literal["normalised", "combinatorial"]

ROW_FLOOR = 1e-3
"""Rows shorter than this share of the features' root mean square fade to 0, so the rounding of a flat map is no graph."""

DEGREE_FLOOR = 1e-6
"""A node with a smaller share of the largest degree of its graph is isolated. A share, since the Laplacian is free of the edges' scale."""

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
    """Which entries of a graph are relations between valid nodes: ``[B, N]`` -> ``[B, 1, N, N]`` bool, without the diagonal by default."""
    both = valid[:, None, :, None] & valid[:, None, None, :]
    return (
        both
        if diagonal
        else both & ~torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)
    )


def count(valid: Tensor) -> Tensor:
    """Valid nodes of each sample, at least 1, ``[B, 1]``."""
    return valid.sum(1, keepdim=True).clamp(min=1)


def centred(nodes: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Node features less their mean over the valid nodes, ``[B, heads, N, d]``, of void nodes too, with what is needed to go on.

    Returns:
        the centred features, their squared norms ``[B, heads, N]``, and the mean over valid nodes of |x|^2 before centring,
        ``[B, heads, 1]``, the scale against which features are flat.
    """
    nodes = widened(nodes)
    nodes_of_each = count(valid)[:, None]
    # A sum, and no product with the mask: that adds up one after the other, and rounding would give a flat map a graph.
    mean = (nodes * valid[:, None, :, None]).sum(2, keepdim=True) / nodes_of_each[..., None]
    rows = nodes - mean
    square = rows.square().sum(-1)
    energy = (square * valid[:, None]).sum(2, keepdim=True) / nodes_of_each + mean.square().sum(-1)
    return rows, square, energy


@unrounded
def graph_rows(nodes: Tensor, valid: Tensor, gram: GramKind = "centred") -> Tensor:
    """Rows R of every node, ``[B, heads, N, d]``, such that R R^T is its graph; for student and teacher alike.

    ``centred``: less the mean over valid nodes, unit norm, so the graph holds cosines; a flat map gives (almost) zero rows, with bounded
    gradients. ``raw``: the features as they are over d^(1/4), so the graph is K K^T / sqrt(d), as CASS has it (arXiv 2411.17150, its
    released code at 228ecdd).
    """
    if gram == "raw":
        nodes = widened(nodes)
        return nodes * (valid.to(nodes.dtype) * nodes.shape[-1] ** -0.25)[:, None, :, None]
    rows, square, energy = centred(nodes, valid)
    return rows * (valid[:, None] * torch.rsqrt(square + ROW_FLOOR**2 * energy + 1e-12))[..., None]


@unrounded
def affinity(rows: Tensor) -> Tensor:
    """Return the graph R R^T of rows ``[B, heads, N, d]``, ``[B, heads, N, N]``."""
    return rows @ rows.mT


@unrounded
def symmetric(weights: Tensor, valid: Tensor) -> Tensor:
    """(A + A^T) / 2 between valid nodes, of a graph that a model gives: softmax attention, state affinity."""
    weights = widened(weights).masked_fill(~pairs(valid, diagonal=True), 0.0)
    return (weights + weights.mT) / 2


@unrounded
def kernel(graph: Tensor, valid: Tensor, how: Kernel, tau: float = 0.1) -> Tensor:
    """A graph without negative edges and without self-loops from one of cosines.

    ``exp``: exp((cos - 1) / tau), which is exp(cos / tau) over its largest value e^(1 / tau), so that edges lie in (0, 1] for any tau.
    ``relu``: max(cos, 0).
    """
    edges = torch.exp((graph - 1.0) / tau) if how == "exp" else torch.relu(graph)
    return edges.masked_fill(~pairs(valid), 0.0)


def degree(graph: Tensor) -> Tensor:
    """Sum of every node's edges, ``[B, heads, N]``."""
    return graph.sum(-1)


def laplacian(graph: Tensor, kind: LaplacianKind = "normalised") -> Tensor:
    """``combinatorial``: D - W; ``normalised``: I - D^(-1/2) W D^(-1/2), spectrum in [0, 2], void and isolated nodes 0 (Chung 1997, 1.2).

    Raises:
        RecipeError: the graph has negative edges, so its degrees mean nothing.
    """
    if bool((graph < -1e-6).any()):
        raise RecipeError(
            "a graph with negative edges has no Laplacian",
            got=f"edges from {float(graph.min()):.3g}",
            need="a kernel that leaves none",
            tip="kernel: exp (exp(cos / tau)), or kernel: relu",
        )
    degrees = degree(graph)
    if kind == "combinatorial":
        return torch.diag_embed(degrees) - graph
    linked = degrees > DEGREE_FLOOR * degrees.amax(-1, keepdim=True)
    root = torch.where(linked, torch.where(linked, degrees, 1.0).rsqrt(), 0.0)
    return (
        torch.diag_embed(linked.to(graph.dtype)) - root[..., :, None] * graph * root[..., None, :]
    )


@unrounded
def smoothness(nodes: Tensor, graph: Tensor, valid: Tensor) -> Tensor:
    """Tr(X^T L X) / Tr(X^T D X) of centred node features on a graph without negative edges, ``[B, heads]``, in [0, 2].

    L = D - W. 0: constant over connected nodes; 1: unrelated to the graph. Features ``[B, heads, N, d]`` and a graph of as many heads,
    or of one for all. 0 where the features are flat.
    """
    x, square, energy = centred(nodes, valid)
    degrees = degree(graph)
    whole = (degrees * square).sum(-1)
    across = (x * (graph @ x)).sum((-2, -1))
    return (whole - across) / (whole + ROW_FLOOR**2 * energy[..., 0] * degrees.sum(-1) + 1e-12)
