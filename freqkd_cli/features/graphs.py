"""From a tap to a graph: the grid of its nodes, the void ones among them, and the graph itself.

A graph loss makes one :class:`GraphSide` per side in ``start``. Then ``target`` and ``forward``
call::

    grid = node_grid(student tap, its grid, teacher tap, its grid)
    valid = node_validity(batch, grid)
    graph = side(taps[name], grid, valid)      # a Gram or a Dense of spectral/graph_forms.py
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from freqkd_cli.errors import RecipeError, ShapeError
from freqkd_cli.features.loss import Grid
from freqkd_cli.features.pooling import pooled, to_nodes
from freqkd_cli.features.taps import Tap
from freqkd_cli.spectral.fourier import common_grid, widened
from freqkd_cli.spectral.graph import GramKind, graph_rows, softmax_attention, symmetric
from freqkd_cli.spectral.graph_forms import Dense, Gram, Graph
from freqkd_cli.views.batch import Batch

Proxy = Literal["similarity", "query_key", "state_affinity"]
Projection = Literal["shared", "separate"]

WIDEST = 32
"""Channels of a ``query_key`` head."""

LAYER_NORM_EPS = 1e-6
"""Added to the variance of a node's channels, as in SegFormer."""


def node_grid(student: Tap, student_grid: Grid, teacher: Tap, teacher_grid: Grid) -> Grid:
    """Return the cells (h, w) that are nodes: per axis the smaller of both grids.

    Maps are pooled onto it; nodes and graphs must have it.

    Raises:
        RecipeError: a tap that cannot be pooled has a finer grid.
    """
    grid = common_grid(student_grid, teacher_grid)
    for tap, own in ((student, student_grid), (teacher, teacher_grid)):
        if tap.kind in ("nodes", "graph") and tuple(own) != grid:
            raise RecipeError(
                f"the graphs of {student.name!r} and {teacher.name!r} have different nodes",
                got=" and ".join(f"{h} x {w}" for h, w in (student_grid, teacher_grid)) + " cells",
                need="a grid for the other side that is at least as fine as that of "
                f"{tap.name!r}, which cannot be pooled",
                tip="a tap of a smaller stride",
                key="teacher" if tap is student else "student",
            )
    return grid


def node_validity(batch: Batch, grid: Grid) -> Tensor:
    """Return which nodes count, ``[B, h * w]`` bool.

    Not those whose image cell is padding or has the ignore label on more than half of its area.
    All cells inside an image without labels count.
    """
    return (pooled(batch.not_void[:, None].float(), grid).flatten(1) > 0.5 - 1e-4).contiguous()


def node_labels(batch: Batch, grid: Grid, classes: int) -> Tensor | None:
    """Return the most frequent label of each node's image cell, ``[B, h * w]`` int64.

    -1 where a cell has no label; None without labels. Pixels belong to the cell that their centre
    lies in, on a border to the later one. The lower of two equally frequent labels is taken.

    Args:
        classes: K; the counts are ``[B, h * w, K + 1]``.
    """
    if batch.labels is None:
        return None
    known = batch.valid & (batch.labels < classes)  # batch.ignore is no class
    labels, values = torch.where(known, batch.labels, classes), classes + 1
    size, (height, width) = labels.shape, grid
    rows, columns = (
        (2 * torch.arange(pixels, device=labels.device) + 1) * cells // (2 * pixels)
        for pixels, cells in zip(size[1:], grid, strict=True)
    )
    samples = torch.arange(size[0], device=labels.device)[:, None, None]
    cell = samples * height * width + rows[:, None] * width + columns
    counts = torch.bincount(
        (cell * values + labels).flatten(), minlength=size[0] * height * width * values
    )
    counts = counts.view(size[0], height * width, values)[..., :-1]
    most, label = counts.max(-1)
    return torch.where(most > 0, label, -1)


class GraphSide(nn.Module):
    """Makes the graph of one tap, the same way for student and teacher.

    - ``similarity``: the Gram matrix of the tap's features; ``heads`` groups of channels are heads
      of their own. A tap of nodes has its own heads.
    - ``query_key``, ``shared``: the same after one projection W to ``heads`` x ``width`` channels,
      W_q = W_k = W without bias, trained with the student and never exported.
    - ``query_key``, ``separate``: attention softmax(Q K^T / sqrt(width)) of two such projections
      of the nodes after LayerNorm (without weights, so their scale cannot saturate the softmax),
      symmetrised.
    - ``state_affinity``: the tap is a graph and is symmetrised; so is softmax attention.

    A projection of ``query_key`` can satisfy a loss while the student's features stay as they are,
    and two can do so more easily. Hence one is the default, and both are narrow. The control is
    ``train.freeze_student: true``: the loss that is reached there is due to the projection alone.

    Args:
        tap: the tap of the graph.
        proxy: one of the three; None is ``state_affinity`` for a graph and else ``similarity``.
        gram: ``centred`` or ``raw``, see :func:`freqkd_cli.spectral.graph.graph_rows`.
        heads: groups of channels, or heads of ``query_key``.
        width: channels of each head of ``query_key``, at most 32.
        projection: ``shared`` or ``separate``, of ``query_key``.

    Raises:
        RecipeError: the tap has another kind, its channels do not fall into as many groups,
            ``width`` is too large, or nothing is projected by two projections.
    """

    def __init__(
        self,
        tap: Tap,
        proxy: Proxy | None = None,
        *,
        gram: GramKind = "centred",
        heads: int = 1,
        width: int = 32,
        projection: Projection = "shared",
    ) -> None:
        super().__init__()
        self.proxy: Proxy = proxy or ("state_affinity" if tap.kind == "graph" else "similarity")
        self.tap, self.gram = tap, gram
        self.heads = tap.heads if tap.kind in ("nodes", "graph") else heads
        self.separate = projection == "separate"
        self._check(heads, width)
        self.project: nn.Parameter | None = None
        if self.proxy == "query_key":
            matrices = (2,) if self.separate else ()
            self.project = nn.Parameter(torch.empty(*matrices, heads * width, tap.channels))
            if not self.project.is_meta:
                nn.init.normal_(self.project, std=tap.channels**-0.5)

    @property
    def dense(self) -> bool:
        """Whether the graph is a :class:`Dense`: attention or state affinity."""
        return self.proxy == "state_affinity" or self.separate

    def _check(self, heads: int, width: int) -> None:
        tap = self.tap
        kinds = {
            "similarity": ("features", "logits", "nodes"),
            "query_key": ("features",),
            "state_affinity": ("graph",),
        }[self.proxy]
        if tap.kind not in kinds:
            raise RecipeError(
                f"no {self.proxy} graph can be made of the tap {tap.name!r}",
                got=f"a tap of kind {tap.kind}",
                need=f"kind {' or '.join(kinds)}",
                key="graph",
            )
        if width > WIDEST:
            raise RecipeError(
                "query_key projects to so many channels that it could satisfy any loss alone",
                got=f"{width}",
                need=f"<= {WIDEST}",
                key="width",
            )
        if self.separate and self.proxy != "query_key":
            raise RecipeError(
                "projection: separate makes queries and keys, which only query_key has",
                got=f"graph: {self.proxy}",
                need="graph: query_key",
                key="projection",
            )
        if self.proxy == "similarity" and tap.kind != "nodes" and tap.channels % heads:
            raise RecipeError(
                f"the channels of {tap.name!r} do not fall into {heads} heads",
                got=f"{tap.channels} channels",
                need="a divisor",
                key="groups",
            )

    def forward(self, x: Tensor, grid: Grid, valid: Tensor) -> Graph:
        """Return the graph of a tap's tensor on the nodes of ``grid``.

        Args:
            valid: ``[B, N]``, which nodes count.

        Raises:
            ShapeError: nodes or a graph on another grid.
        """
        if self.tap.kind in ("nodes", "graph") and x.shape[2] != grid[0] * grid[1]:
            raise ShapeError(
                f"{self.tap.name!r} has other nodes",
                got=f"{x.shape[2]}",
                need=f"{grid[0]} x {grid[1]} = {grid[0] * grid[1]}",
            )
        if self.proxy == "state_affinity":
            return Dense(symmetric(x, valid), valid)
        with torch.autocast(x.device.type, enabled=False):
            nodes = self._nodes(widened(x), grid)
            if self.separate:
                queries, keys = nodes.unbind(1)
                return Dense(symmetric(softmax_attention(queries, keys, valid), valid), valid)
            rows = graph_rows(nodes, valid, self.gram)
            return Gram(rows, valid, cosines=self.gram == "centred")

    def _nodes(self, x: Tensor, grid: Grid) -> Tensor:
        """Return nodes ``[B, heads, N, d]``, or queries and keys ``[B, 2, heads, N, d]``."""
        if self.tap.kind == "nodes":
            return x
        if self.project is None:
            return to_nodes(x, grid, self.heads)
        flat = pooled(x, grid).flatten(2)
        if self.separate:
            flat = nn.functional.layer_norm(flat.mT, flat.shape[1:2], eps=LAYER_NORM_EPS).mT
        rows = self.project.flatten(0, -2).to(x.dtype) @ flat
        return rows.unflatten(1, (*self.project.shape[:-2], self.heads, -1)).mT
