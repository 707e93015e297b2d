"""Compare graph frequencies: how well the patches hold together, or how smooth the student is on the teacher's graph.

**What** W is the graph without negative edges (``kernel: exp``: exp((cos - 1) / tau); ``relu``: max(cos, 0); attention and state affinity
as they are), L = I - D^(-1/2) W D^(-1/2). ``compare: eigenvalues`` is the mean of |l_i - m_i| over the k smallest eigenvalues but the
first, which is 0; ``heat_trace`` the mean over t in {0.1, 1, 10} of |tr e^(-t L_S) - tr e^(-t L_T)| / N; ``smoothness`` is
Tr(X^T (D - W) X) / Tr(X^T D X) on the teacher's W, X the rows of the student's graph, less their mean. Mean over the batch. ``heads`` as in
``graph_lowrank``.

**Why** The number of small eigenvalues is the number of regions, their size says how loosely they hang together; heat traces read the
whole spectrum so. Smoothness tells the student to be constant over what the teacher takes for one region, a low-pass on the graph: its
minimum is a constant map, so it needs ``cross_entropy`` beside it. The first two are blind to layout, as ``graph_spectrum`` is.

**Shapes and units** taps and the student's graph as in ``graph_lowrank``; ``smoothness`` needs features on the student's side. All forms
are dense in the N patches; eigenvalues of the student's L are computed in every step, N^3 each.

**Source** Chung, Spectral Graph Theory (1997), 1.2 for L; kernel and times are this project's formula sheet's. Departures: the exponential
kernel is divided by its largest value, so that ``tau`` may be small; smoothness is of rows of unit norm (``gram: centred``) and not of the
features themselves, so that no patch counts for more than another because its features are large.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from freqkd_cli.errors import RecipeError
from freqkd_cli.features.graphs import Proxy
from freqkd_cli.features.loss import Loss
from freqkd_cli.features.taps import Tap
from freqkd_cli.losses._graph import (
    Count,
    GraphLoss,
    Making,
    MeanHeads,
    Positive,
    Width,
    check_kernel,
    heads_of,
    laplacian_eigenvalues,
)
from freqkd_cli.spectral.assignment import By
from freqkd_cli.spectral.graph import GramKind, Kernel, count, laplacian, smoothness
from freqkd_cli.spectral.graph_forms import Gram, Graph
from freqkd_cli.spectral.modes import eigenvalues, heat_trace, kept

Compare = Literal["eigenvalues", "heat_trace", "smoothness"]


def build(
    *,
    student: str,
    teacher: str,
    compare: Compare = "eigenvalues",
    k: Count = 20,
    kernel: Kernel = "exp",
    tau: Positive = 0.1,
    heads: MeanHeads = "mean_graph",
    object_heads: Count = 2,
    object_by: By = "labels",
    graph: Proxy | None = None,
    gram: GramKind = "centred",
    groups: Count = 1,
    width: Width = 32,
) -> Loss:
    """A loss of Laplacians; see the top of the file, and ``graph_lowrank`` for the student's graph."""
    making = Making(gram, heads_of(heads, object_heads, object_by), graph, groups, width)
    return GraphLaplacian((student, teacher), making, k, compare, (kernel, tau))


class GraphLaplacian(GraphLoss):
    """Made by :func:`build`. The target is named as what is compared: ``eigenvalues`` ``[B, 1, k]``, ``heat_trace`` ``[B, 1, 3]``, or the
    teacher's graph, ``edges`` ``[B, 1, N, N]``.
    """

    target_arguments = (*GraphLoss.target_arguments, "compare", "kernel", "tau")

    def __init__(
        self,
        taps: tuple[str, str],
        making: Making,
        k: int,
        compare: Compare,
        edges: tuple[Kernel, float],
    ) -> None:
        super().__init__(taps, making, k)
        self.compare, self.edges = compare, edges

    def start(self, student: Mapping[str, Tap], teacher: Mapping[str, Tap], classes: int) -> None:
        super().start(student, teacher, classes)
        check_kernel(self.making.gram, self.edges[0], *self.sides())
        if self.compare == "smoothness" and student[self.student].kind == "graph":
            raise RecipeError(
                f"smoothness of the student's {self.student!r}",
                got="a graph",
                need="a tap of kind features or nodes",
            )

    def modes_wanted(self) -> int:
        return self.k + 1 if self.compare == "eigenvalues" else 1

    def describe(self, graph: Graph) -> dict[str, Tensor]:
        graph = graph.mean()
        return (
            {"edges": graph.edges(*self.edges)}
            if self.compare == "smoothness"
            else {self.compare: self._spectrum(graph)}
        )

    def distance(self, graph: Graph, target: Mapping[str, Tensor]) -> Tensor:
        if self.compare == "smoothness":
            assert isinstance(graph, Gram), "start() refuses others"
            return smoothness(graph.rows, target["edges"], graph.valid)
        return (self._spectrum(graph.mean()) - target[self.compare]).abs().mean(-1)

    def _spectrum(self, graph: Graph) -> Tensor:
        """What is compared, ``[B, 1, k]`` or ``[B, 1, times]``."""
        if self.compare == "eigenvalues":
            return laplacian_eigenvalues(graph, self.k, *self.edges)
        nodes = graph.valid.shape[1]
        values = eigenvalues(
            laplacian(graph.edges(*self.edges)), graph.valid, nodes, end="smallest"
        )
        return heat_trace(values, kept(graph.valid, nodes)) / count(graph.valid)[..., None]
