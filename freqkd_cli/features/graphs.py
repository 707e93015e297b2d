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
import torch.nn.functional as F
from torch import Tensor, nn

from freqkd_cli.errors import RecipeError, ShapeError
from freqkd_cli.features.loss import Grid
from freqkd_cli.features.taps import Tap
from freqkd_cli.spectral.fourier import common_grid, widened
from freqkd_cli.spectral.graph import GramKind, graph_rows, symmetric
from freqkd_cli.spectral.graph_forms import Dense, Gram, Graph
from freqkd_cli.views.batch import Batch

Proxy = Literal["similarity", "query_key", "state_affinity"]

WIDEST = 32
"""Channels of a ``query_key`` head."""


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
    """
    inside = batch.valid if batch.labels is None else batch.valid & batch.labelled
    return (pooled(inside[:, None].float(), grid).flatten(1) > 0.5 - 1e-4).contiguous()


def node_labels(batch: Batch, grid: Grid) -> Tensor | None:
    """Return the most frequent label of each node's image cell, ``[B, h * w]`` int64.

    ``batch.ignore`` where a cell has no label; None without labels. Pixels belong to the cell that
    their centre lies in, on a border to the later one. The lower of two equally frequent labels is
    taken.
    """
    if batch.labels is None:
        return None
    labels, values = torch.where(batch.valid, batch.labels, batch.ignore), batch.ignore + 1
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
    return torch.where(most > 0, label, batch.ignore)


def pooled(x: Tensor, grid: Grid) -> Tensor:
    """Return the mean of a map ``[B, C, h, w]`` over each cell of a coarser grid.

    Means are by area, so the map's mean is kept. Where the grid does not divide the map, cells on
    the border of two nodes count for both by their share.
    """
    size = (x.shape[-2], x.shape[-1])
    if size == tuple(grid):
        return x
    if size[0] % grid[0] == 0 and size[1] % grid[1] == 0:
        return F.avg_pool2d(x, (size[0] // grid[0], size[1] // grid[1]))
    with torch.autocast(x.device.type, enabled=False):
        x = widened(x)
        return area_matrix(size[0], grid[0], x) @ x @ area_matrix(size[1], grid[1], x).mT


def area_matrix(cells: int, bins: int, like: Tensor) -> Tensor:
    """Return the share of each cell in each of ``bins`` equal parts of an axis, ``[bins, cells]``.

    Rows sum to 1.
    """
    edge = torch.arange(bins + 1, dtype=torch.float64, device=like.device) * cells / bins
    cell = torch.arange(cells, dtype=torch.float64, device=like.device)
    overlap = torch.minimum(edge[1:, None], cell + 1) - torch.maximum(edge[:-1, None], cell)
    return (overlap.clamp(min=0.0) * bins / cells).to(like.dtype)


def node_matrix(size: Grid, grid: Grid, like: Tensor) -> Tensor:
    """Return :func:`pooled` as one matrix, ``[h * w, H * W]`` for maps of ``size`` (H, W).

    Cells and nodes are row-major.
    """
    return torch.kron(area_matrix(size[0], grid[0], like), area_matrix(size[1], grid[1], like))


def to_nodes(x: Tensor, grid: Grid, heads: int = 1) -> Tensor:
    """Return a map ``[B, C, h, w]`` as nodes ``[B, heads, N, C / heads]``.

    It is pooled onto the grid, and its channels fall into as many groups as heads.
    """
    x = pooled(x, grid)
    return x.reshape(x.shape[0], heads, x.shape[1] // heads, grid[0] * grid[1]).mT


class GraphSide(nn.Module):
    """Makes the graph of one tap, the same way for student and teacher.

    - ``similarity``: the Gram matrix of the tap's features; ``heads`` groups of channels are heads
      of their own. A tap of nodes has its own heads.
    - ``query_key``: the same after one projection W to ``heads`` x ``width`` channels, W_q = W_k =
      W without bias, trained with the student and never exported.
    - ``state_affinity``: the tap is a graph and is symmetrised; so is softmax attention.

    The projection of ``query_key`` can satisfy a loss while the student's features stay as they
    are. Hence it is shared and narrow. The control is ``train.freeze_student: true``: the loss that
    is reached there is due to the projection alone.

    Args:
        tap: the tap of the graph.
        proxy: one of the three; None is ``state_affinity`` for a graph and else ``similarity``.
        gram: ``centred`` or ``raw``, see :func:`freqkd_cli.spectral.graph.graph_rows`.
        heads: groups of channels, or heads of ``query_key``.
        width: channels of each head of ``query_key``, at most 32.

    Raises:
        RecipeError: the tap has another kind, its channels do not fall into as many groups, or
            ``width`` is too large.
    """

    def __init__(
        self,
        tap: Tap,
        proxy: Proxy | None = None,
        *,
        gram: GramKind = "centred",
        heads: int = 1,
        width: int = 32,
    ) -> None:
        super().__init__()
        self.proxy: Proxy = proxy or ("state_affinity" if tap.kind == "graph" else "similarity")
        self.tap, self.gram = tap, gram
        self.heads = tap.heads if tap.kind in ("nodes", "graph") else heads
        self._check(heads, width)
        self.project: nn.Parameter | None = None
        if self.proxy == "query_key":
            self.project = nn.Parameter(torch.empty(heads * width, tap.channels))
            if not self.project.is_meta:
                nn.init.normal_(self.project, std=tap.channels**-0.5)

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
            rows = graph_rows(self._nodes(widened(x), grid), valid, self.gram)
            return Gram(rows, valid, cosines=self.gram == "centred")

    def _nodes(self, x: Tensor, grid: Grid) -> Tensor:
        if self.tap.kind == "nodes":
            return x
        if self.project is None:
            return to_nodes(x, grid, self.heads)
        flat = pooled(x, grid).flatten(2)
        return (self.project.to(x.dtype) @ flat).unflatten(1, (self.heads, -1)).mT
