"""Compare graph frequencies: how well the patches hold together, or how smooth the student is.

**What** W is the graph without negative edges (``kernel: exp``: exp((cos - 1) / tau); ``relu``:
max(cos, 0); attention and state affinity as they are). ``laplacian: normalized`` is
L = I - D^(-1/2) W D^(-1/2), ``combinatorial`` is L = D - W. Mean over the batch; ``heads`` as in
``graph_lowrank``. ``compare`` is one of:

- ``eigenvalues``: the mean of |l_i - m_i| over the k smallest eigenvalues but the first, which is
  0;
- ``heat_trace``: the mean over t in {0.1, 1, 10} of |tr e^(-t L_S) - tr e^(-t L_T)| / N;
- ``smoothness``: Tr(X^T (D - W) X) / Tr(X^T D X) on the teacher's W, where X are the rows of the
  student's graph, less their mean (``combinatorial``: over Tr(X^T X)).

**Why** The number of small eigenvalues is the number of regions, and their size measures how
loosely they are connected. Heat traces read the whole spectrum in this way. Smoothness makes the
student constant over each region of the teacher, a low-pass on the graph. Its minimum is a constant
map, so it needs ``cross_entropy`` beside it. The first two are blind to layout, as
``graph_spectrum`` is.

**Shapes and units** Taps and the student's graph as in ``graph_lowrank``; ``smoothness`` needs
features on the student's side. The other two need edges of one rule: attention or state affinity
on both sides, or a kernel on both. All forms are dense in the N patches. The eigenvalues of the
student's L are computed in every step, at a cost of N^3. Those of ``normalized`` lie in [0, 2],
those of ``combinatorial`` have the unit of the edges, up to twice the largest degree.

**Source** Chung, Spectral Graph Theory (1997), 1.2 for L. Kernel and times are this project's
choice. Departures: the exponential kernel is divided by its largest value, so ``tau`` may be small;
smoothness is of rows of unit norm (``gram: centred``), so no patch counts for more than another
because its features are large.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from freqkd_cli.errors import RecipeError
from freqkd_cli.features.loss import Loss, LossGroup
from freqkd_cli.features.taps import Tap
from freqkd_cli.losses._graph import GraphLoss, laplacian_eigenvalues
from freqkd_cli.losses._graph_arguments import (
    Count,
    Edges,
    StudentGraph,
    TeacherHeads,
    check_kernel,
    check_same_rule,
)
from freqkd_cli.registry import flattened
from freqkd_cli.spectral.assignment import Heads
from freqkd_cli.spectral.distances import ratio
from freqkd_cli.spectral.graph import count, smoothness
from freqkd_cli.spectral.graph_forms import Gram, Graph
from freqkd_cli.spectral.modes import eigenvalues, heat_trace, kept

GROUP: LossGroup = "relations"

Compare = Literal["eigenvalues", "heat_trace", "smoothness"]


@flattened
def build(
    *,
    student: str,
    teacher: str,
    compare: Compare = "eigenvalues",
    k: Count = 20,
    edges: Edges,
    teacher_heads: TeacherHeads,
    student_graph: StudentGraph,
) -> Loss:
    """Build a loss of Laplacians; ``graph_lowrank`` explains the student's graph.

    Args:
        student: tap of the student: features or a graph.
        teacher: tap of the teacher: features, nodes or a graph.
        compare: what is compared; the top of the file explains each.
        k: number of eigenvalues, for ``compare: eigenvalues``.
    """
    graphs = (k, teacher_heads.choice(), student_graph)
    return GraphLaplacian((student, teacher), graphs, compare, edges)


class GraphLaplacian(GraphLoss):
    """Made by :func:`build`.

    The target has the name of what is compared: ``eigenvalues`` ``[B, 1, k]``, ``heat_trace``
    ``[B, 1, 3]``, or the teacher's graph, ``edges`` ``[B, 1, N, N]``, which are relative to the
    largest one for ``laplacian: normalized``.
    """

    target_arguments = (*GraphLoss.target_arguments, "compare", "kernel", "tau", "laplacian")

    def __init__(
        self,
        taps: tuple[str, str],
        graphs: tuple[int, Heads, StudentGraph],
        compare: Compare,
        edges: Edges,
    ) -> None:
        super().__init__(taps, *graphs)
        self.compare, self.edges = compare, edges

    def start(self, student: Mapping[str, Tap], teacher: Mapping[str, Tap], classes: int) -> None:
        super().start(student, teacher, classes)
        of_student, of_teacher = self.sides()
        check_kernel(self.graph.gram, self.edges.kernel, of_student, of_teacher)
        if self.compare != "smoothness":
            check_same_rule(of_student, of_teacher)
        elif of_student.dense:
            separate = of_student.separate
            raise RecipeError(
                f"smoothness of the student's {self.student!r} needs features, and no attention",
                got="projection: separate" if separate else f"a tap of kind {of_student.tap.kind}",
                need="projection: shared" if separate else "a tap of kind features or nodes",
                key="projection" if separate else "student",
            )

    def modes_needed(self) -> int:
        return self.k + 1 if self.compare == "eigenvalues" else 1

    def describe(self, graph: Graph) -> dict[str, Tensor]:
        graph = graph.mean()
        if self.compare == "smoothness":
            edges = self.edges.of(graph)
            if self.edges.laplacian == "normalized":
                # Their scale cancels, and half floats hold no edge below 1e-7.
                edges = ratio(edges, edges.amax((-2, -1), keepdim=True))
            return {"edges": edges}
        return {self.compare: self._spectrum(graph)}

    def distance(self, graph: Graph, target: Mapping[str, Tensor]) -> Tensor:
        if self.compare == "smoothness":
            assert isinstance(graph, Gram), "start() refuses others"
            edges = target["edges"]
            return smoothness(graph.rows, edges, graph.valid, self.edges.laplacian)
        return (self._spectrum(graph.mean()) - target[self.compare]).abs().mean(-1)

    def _spectrum(self, graph: Graph) -> Tensor:
        """Return what is compared, ``[B, 1, k]`` or ``[B, 1, times]``."""
        if self.compare == "eigenvalues":
            return laplacian_eigenvalues(graph, self.k, self.edges)
        nodes = graph.valid.shape[1]
        values = eigenvalues(self.edges.matrix(graph), graph.valid, nodes, end="smallest")
        return heat_trace(values, kept(graph.valid, nodes)) / count(graph.valid)[..., None]
