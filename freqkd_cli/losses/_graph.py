"""Base of the losses that compare a student's graph with a teacher's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from freqkd_cli.errors import RecipeError, TrainingFailed
from freqkd_cli.features.graphs import GraphSide, node_grid, node_labels, node_validity
from freqkd_cli.features.loss import Grid
from freqkd_cli.features.taps import Tap
from freqkd_cli.losses._graph_arguments import Edges, StudentGraph
from freqkd_cli.losses._pair import TwoTaps
from freqkd_cli.spectral.assignment import Heads
from freqkd_cli.spectral.graph_forms import Gram, Graph
from freqkd_cli.spectral.modes import eigenvalues
from freqkd_cli.views.batch import Batch


class NodeLoss(TwoTaps):
    """A student tap, and a teacher tap whose graph is made, on the nodes that both have.

    Args:
        taps: student and teacher.
        k: eigenvalues or modes that are compared.
        heads: which of the teacher's heads are compared, where it has several.
        graph: how the graphs are made.
    """

    target_arguments = ("teacher", "gram", "heads", "object_heads", "object_by", "k")
    target_version = 3
    fixed_rank = False
    """Whether k is the rank of CASS, and no key of the recipe."""

    def __init__(self, taps: tuple[str, str], k: int, heads: Heads, graph: StudentGraph) -> None:
        super().__init__(*taps)
        self.k, self.heads, self.graph = k, heads, graph
        self.classes = 0
        self.student_side: GraphSide | None = None
        self.teacher_side: GraphSide | None = None

    def start(self, student: Mapping[str, Tap], teacher: Mapping[str, Tap], classes: int) -> None:
        form, self.classes = self.graph, classes
        self.student_side = GraphSide(
            student[self.student],
            form.graph,
            gram=form.gram,
            heads=form.groups,
            width=form.width,
            projection=form.projection,
        )
        self.teacher_side = GraphSide(teacher[self.teacher], gram=form.gram)
        chosen, heads = self.heads.choice, self.teacher_side.heads
        if isinstance(chosen, tuple) and not (chosen and max(chosen) < heads):
            raise RecipeError(
                f"the graph of the teacher's {self.teacher!r} has other heads",
                got=list(chosen),
                need=f"numbers from 0 to {heads - 1}",
                key="heads",
            )

    def sides(self) -> tuple[GraphSide, GraphSide]:
        """Return the graph makers of student and teacher."""
        assert self.student_side is not None and self.teacher_side is not None, "start() first"
        return self.student_side, self.teacher_side

    def check_grids(self, student: Mapping[str, Grid], teacher: Mapping[str, Grid]) -> None:
        of_student, of_teacher = (side.tap for side in self.sides())
        self.check_nodes(
            node_grid(of_student, student[self.student], of_teacher, teacher[self.teacher])
        )

    def modes_needed(self) -> int:
        """Return the number of modes that either graph must have.

        That is k, and one more of attention, which loses its Perron mode.
        """
        return self.k + any(side.dense for side in self.sides())

    def check_nodes(self, grid: Grid) -> None:
        """
        Raises:
            RecipeError: the graphs have fewer nodes than :meth:`modes_needed`.
        """
        nodes, needed = grid[0] * grid[1], self.modes_needed()
        if nodes < needed:
            fixed = self.fixed_rank
            raise RecipeError(
                f"the graph of {self.student!r} and {self.teacher!r} is too small for k",
                got=f"{grid[0]} x {grid[1]} = {nodes} nodes and k {self.k}"
                + (" of rank: cass_fixed_10" if fixed else ""),
                need=f"k of at most {max(nodes - needed + self.k, 0)}",
                tip=("rank: energy with " if fixed else "") + "a smaller k, or larger views",
                key="rank" if fixed else "k",
            )

    def grid(self, batch: Batch) -> Grid:
        """Return the grid (h, w) of the nodes on this batch's views."""
        student, teacher = (side.tap for side in self.sides())
        size = batch.images.shape[-2:]
        return node_grid(student, student.grid(*size), teacher, teacher.grid(*size))

    def count(self, batch: Batch, grids: Mapping[str, Grid]) -> float:
        """Return the number of samples with relations, over which the loss is a mean."""
        return float(related(node_validity(batch, self.grid(batch))).sum())

    def teacher_graph(
        self, teacher: Mapping[str, Tensor], batch: Batch, grid: Grid, nodes: Tensor
    ) -> Graph:
        """Return the chosen heads of the teacher's graph.

        Args:
            nodes: ``[B, N]``, which nodes count.

        Raises:
            TrainingFailed: the graph is not finite. Not on a GPU, which would have to be waited
                for: there the loss is not finite.
        """
        graph = self.sides()[1](teacher[self.teacher].detach(), grid, nodes)
        if nodes.device.type == "cpu" and not bool(torch.isfinite(entries(graph)).all()):
            raise TrainingFailed(
                f"the graph of the teacher's tap {self.teacher!r} is not finite",
                tip="teacher.dtype: float32",
            )
        reads_labels = self.heads.reads_labels
        labels = node_labels(batch, grid, self.classes) if reads_labels else None
        return self.heads.of(graph, labels, self.k)

    def nodes(self, target: Mapping[str, Tensor], grid: Grid) -> Tensor:
        """Return the target's ``nodes``: which nodes count, ``[B, N]`` bool.

        Raises:
            ShapeError: the target was made for another grid.
        """
        nodes = target["nodes"]
        if nodes.shape[1] != grid[0] * grid[1]:
            raise self.mismatch(f"{nodes.shape[1]} nodes", f"{grid[0]} x {grid[1]}")
        return nodes


class GraphLoss(NodeLoss):
    """The student's graph against the teacher's.

    A subclass defines what is kept of the teacher's graph (:meth:`describe`) and the distance of a
    student's graph from it (:meth:`distance`). The target also holds ``nodes`` ``[B, N]``.
    """

    def target(
        self, teacher: Mapping[str, Tensor], batch: Batch, grids: Mapping[str, Grid]
    ) -> dict[str, Tensor]:
        grid = self.grid(batch)
        with torch.no_grad(), torch.autocast(batch.images.device.type, enabled=False):
            nodes = node_validity(batch, grid)
            return {
                "nodes": nodes,
                **self.describe(self.teacher_graph(teacher, batch, grid, nodes)),
            }

    def forward(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int
    ) -> Tensor:
        x, grid = student[self.student], self.grid(batch)
        nodes = self.nodes(target, grid)
        with torch.autocast(x.device.type, enabled=False):
            graph = self.sides()[0](x, grid, nodes)
            dtype = entries(graph).dtype
            kept = {name: row.to(dtype) for name, row in target.items() if name != "nodes"}
            return mean_of_samples(self.distance(graph, kept), nodes)

    @abstractmethod
    def describe(self, graph: Graph) -> dict[str, Tensor]:
        """Return what is kept of the teacher's graph, each with B rows."""

    @abstractmethod
    def distance(self, graph: Graph, target: Mapping[str, Tensor]) -> Tensor:
        """Return the distance of the student's graph from that, ``[B]`` or ``[B, heads]``."""


def entries(graph: Graph) -> Tensor:
    """Return the numbers that a graph is made of: rows or weights."""
    return graph.rows if isinstance(graph, Gram) else graph.weights


def related(nodes: Tensor) -> Tensor:
    """Return which samples have two valid nodes or more, ``[B]`` bool."""
    return nodes.sum(1) > 1


def mean_of_samples(distance: Tensor, nodes: Tensor) -> Tensor:
    """Return the mean over heads, then over the samples with relations; 0 where there are none."""
    distance = distance.flatten(1).mean(1) if distance.ndim > 1 else distance
    some = related(nodes)
    return torch.where(some, distance, 0.0).sum() / some.sum().clamp(min=1)


def relative(values: Tensor) -> Tensor:
    """Divide eigenvalues ``[B, heads, k]`` by the largest magnitude, so half floats hold them."""
    return values / values.abs().amax(-1, keepdim=True).clamp(min=1e-12)


def laplacian_eigenvalues(graph: Graph, k: int, edges: Edges) -> Tensor:
    """Return the k smallest eigenvalues of the Laplacian but the first, which is 0.

    ``[B, heads, k]``, ascending and differentiable.
    """
    return eigenvalues(edges.matrix(graph), graph.valid, k + 1, end="smallest")[..., 1:]
