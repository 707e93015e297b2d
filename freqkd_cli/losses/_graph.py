"""What losses that compare a student's graph with a teacher's share: taps, nodes, heads, and the low-rank teacher."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from freqkd_cli.errors import RecipeError, TrainingFailed
from freqkd_cli.features.graphs import GraphSide, Proxy, node_grid, node_labels, node_validity
from freqkd_cli.features.loss import Grid
from freqkd_cli.features.taps import Tap
from freqkd_cli.losses._pair import TwoTaps
from freqkd_cli.spectral.assignment import By, Heads
from freqkd_cli.spectral.graph import GramKind, Kernel, laplacian
from freqkd_cli.spectral.graph_forms import Gram, Graph
from freqkd_cli.spectral.modes import Modes, Rank, Scaling, eigenvalues, low_rank, scaled
from freqkd_cli.views.batch import Batch

Count = Annotated[int, Field(ge=1)]
Width = Annotated[int, Field(ge=1, le=32)]
Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Numbers = list[Annotated[int, Field(ge=0)]]
MeanHeads = Literal["mean_graph", "object"] | Numbers
"""Which heads of the teacher, whose graphs are then averaged."""


@dataclass(frozen=True)
class Making:
    """How the two graphs are made.

    Attributes:
        gram: of both sides.
        heads: which of the teacher's heads are compared, where it has several.
        proxy, groups, width: of the student's graph, see :class:`freqkd_cli.features.graphs.GraphSide`.
    """

    gram: GramKind = "centred"
    heads: Heads = Heads()
    proxy: Proxy | None = None
    groups: int = 1
    width: int = 32


def check_kernel(gram: GramKind, kernel: Kernel, *sides: GraphSide) -> None:
    """
    Raises:
        RecipeError: an exponential of products of features, which may have any size; it is made for cosines.
    """
    if gram == "raw" and kernel == "exp" and any(side.tap.kind != "graph" for side in sides):
        raise RecipeError(
            "kernel: exp is for cosines, and gram: raw holds products of any size",
            got="gram: raw with kernel: exp",
            need="gram: centred, or kernel: relu",
        )


def heads_of(heads: str | Sequence[int], count: int, by: By) -> Heads:
    """A recipe's ``heads``, ``object_heads`` and ``object_by``."""
    return Heads(heads if isinstance(heads, str) else tuple(heads), count, by)  # type: ignore[arg-type]


class NodeLoss(TwoTaps):
    """A student tap and a teacher tap whose graph is wanted, on the nodes that both have.

    Args:
        taps: student and teacher.
        making: how the graphs are made.
        k: eigenvalues or modes that are compared.
    """

    target_arguments = ("teacher", "gram", "heads", "object_heads", "object_by", "k")
    target_version = 2

    def __init__(self, taps: tuple[str, str], making: Making, k: int) -> None:
        super().__init__(*taps)
        self.making, self.k = making, k
        self.ours: GraphSide | None = None
        self.theirs: GraphSide | None = None

    def start(self, student: Mapping[str, Tap], teacher: Mapping[str, Tap], classes: int) -> None:
        how = self.making
        self.ours = GraphSide(
            student[self.student], how.proxy, gram=how.gram, heads=how.groups, width=how.width
        )
        self.theirs = GraphSide(teacher[self.teacher], gram=how.gram)
        asked = how.heads.how
        if isinstance(asked, tuple) and not (asked and max(asked) < self.theirs.heads):
            numbers = f"numbers from 0 to {self.theirs.heads - 1}"
            raise RecipeError(
                f"the graph of the teacher's {self.teacher!r} has other heads",
                got=list(asked),
                need=numbers,
            )

    def sides(self) -> tuple[GraphSide, GraphSide]:
        """Student and teacher."""
        assert self.ours is not None and self.theirs is not None, "start() comes first"
        return self.ours, self.theirs

    def check_grids(self, student: Mapping[str, Grid], teacher: Mapping[str, Grid]) -> None:
        ours, theirs = self.sides()
        self.check_nodes(
            node_grid(ours.tap, student[self.student], theirs.tap, teacher[self.teacher])
        )

    def modes_wanted(self) -> int:
        """Modes that either graph must have: k, and one more of attention, which loses its Perron mode."""
        return self.k + any(side.tap.kind == "graph" for side in self.sides())

    def check_nodes(self, grid: Grid) -> None:
        """
        Raises:
            RecipeError: the graphs have fewer nodes than :meth:`modes_wanted`.
        """
        nodes, wanted = grid[0] * grid[1], self.modes_wanted()
        if nodes < wanted:
            raise RecipeError(
                f"the graph of {self.student!r} and {self.teacher!r} is too small for k",
                got=f"{grid[0]} x {grid[1]} = {nodes} nodes and k {self.k}",
                need=f"k of at most {max(nodes - wanted + self.k, 0)}",
                tip="a smaller k, or larger views",
            )

    def grid(self, batch: Batch) -> Grid:
        """The grid (h, w) of the nodes on this batch's views."""
        ours, theirs = (side.tap for side in self.sides())
        size = batch.images.shape[-2:]
        return node_grid(ours, ours.grid(*size), theirs, theirs.grid(*size))

    def of_teacher(
        self, teacher: Mapping[str, Tensor], on: tuple[Grid, Tensor], batch: Batch
    ) -> Graph:
        """The heads of the teacher's graph that the recipe asks for; ``on``: the grid, and which of its nodes count.

        Raises:
            TrainingFailed: it is not finite.
        """
        graph = self.sides()[1](teacher[self.teacher].detach(), *on)
        if not bool(torch.isfinite(entries(graph)).all()):
            raise TrainingFailed(
                f"the graph of the teacher's tap {self.teacher!r} is not finite",
                tip="teacher.dtype: float32",
            )
        return self.making.heads.of(graph, node_labels(batch, on[0]), self.k)

    def nodes(self, target: Mapping[str, Tensor], grid: Grid) -> Tensor:
        """Which nodes count, ``[B, N]`` bool.

        Raises:
            ShapeError: the target was made for another grid.
        """
        nodes = target["nodes"]
        if nodes.shape[1] != grid[0] * grid[1]:
            raise self.mismatch(f"{nodes.shape[1]} nodes", f"{grid[0]} x {grid[1]}")
        return nodes


class GraphLoss(NodeLoss):
    """The student's graph against the teacher's.

    A subclass says what of the teacher's graph is kept (:meth:`describe`) and how far a student's graph is from it (:meth:`distance`).
    The target also holds ``nodes`` ``[B, N]``, which of them count.
    """

    def target(
        self, teacher: Mapping[str, Tensor], batch: Batch, grids: Mapping[str, Grid]
    ) -> dict[str, Tensor]:
        grid = self.grid(batch)
        with torch.no_grad(), torch.autocast(batch.images.device.type, enabled=False):
            nodes = node_validity(batch, grid)
            return {"nodes": nodes, **self.describe(self.of_teacher(teacher, (grid, nodes), batch))}

    def forward(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int
    ) -> Tensor:
        x, grid = student[self.student], self.grid(batch)
        nodes = self.nodes(target, grid)
        with torch.autocast(x.device.type, enabled=False):
            graph = self.sides()[0](x, grid, nodes)
            stored = {
                name: row.to(entries(graph).dtype)
                for name, row in target.items()
                if name != "nodes"
            }
            return mean_of_samples(self.distance(graph, stored), nodes)

    @abstractmethod
    def describe(self, graph: Graph) -> dict[str, Tensor]:
        """What is kept of the teacher's graph, each with B rows."""

    @abstractmethod
    def distance(self, graph: Graph, target: Mapping[str, Tensor]) -> Tensor:
        """How far the student's graph is from that, ``[B]`` or ``[B, heads]``."""


def entries(graph: Graph) -> Tensor:
    """What a graph is made of: rows or weights."""
    return graph.rows if isinstance(graph, Gram) else graph.weights


def mean_of_samples(distance: Tensor, nodes: Tensor) -> Tensor:
    """The mean over heads and samples, where one with fewer than two nodes counts as 0."""
    return torch.where(
        nodes.sum(1) > 1, distance.flatten(1).mean(1) if distance.ndim > 1 else distance, 0.0
    ).mean()


@dataclass(frozen=True)
class LowRank:
    """The teacher's strongest modes, scaled: what ``graph_lowrank``, ``graph_basis`` and ``graph_match`` compare with.

    Attributes:
        k, rank, energy: see :func:`freqkd_cli.spectral.modes.low_rank`.
        scaling, power: see :func:`freqkd_cli.spectral.modes.scaled`.
    """

    k: int
    rank: Rank
    energy: float
    scaling: Scaling
    power: float

    @property
    def columns(self) -> int:
        """Modes that are kept at most."""
        return 10 if self.rank == "cass_fixed_10" else self.k

    def modes(self, graph: Graph) -> tuple[Modes, dict[str, Tensor]]:
        """The strongest modes as they are, vectors of unit norm; and ``perron`` ``[B, heads, N]``, the mode that the graph has lost."""
        perron, modes = graph.split()
        modes = low_rank(modes, self.k, rank=self.rank, energy=self.energy)
        return Modes(modes.values, signed(modes.vectors), modes.kept), {} if perron is None else {
            "perron": perron
        }

    def phi(self, modes: Modes) -> Tensor:
        """Their scaled eigenvalues, ``[B, heads, k]``."""
        return scaled(modes.values, modes.kept, self.scaling, power=self.power)


def relative(values: Tensor) -> Tensor:
    """Eigenvalues over the largest magnitude, ``[B, heads, k]``, which half floats hold whatever the graph's unit is."""
    return values / values.abs().amax(-1, keepdim=True).clamp(min=1e-12)


def signed(vectors: Tensor) -> Tensor:
    """Eigenvectors ``[..., N, k]`` with a positive largest entry: the sign is free, and a cache that is made again should be the same."""
    largest = vectors.gather(-2, vectors.abs().argmax(-2, keepdim=True))
    return torch.where(largest < 0, -vectors, vectors)


def laplacian_eigenvalues(graph: Graph, k: int, kernel: Kernel, tau: float) -> Tensor:
    """The k smallest eigenvalues but the first, which is 0, of I - D^(-1/2) W D^(-1/2), ascending, ``[B, heads, k]``, differentiable."""
    return eigenvalues(laplacian(graph.edges(kernel, tau)), graph.valid, k + 1, end="smallest")[
        ..., 1:
    ]
