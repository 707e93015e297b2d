"""Compare the student's graph with the teacher's in the teacher's eigenvectors.

**What** ``|U^T A_S U / tr(A_S) - diag(phi(lambda)) / sum|_F^2 / |diag|_F^2`` with the teacher's k
strongest eigenpairs, lambda divided by the trace of its graph; mean over the batch. phi scales the
eigenvalues and keeps their sum (``scaling`` as in ``graph_lowrank``; here a stretch has an effect,
for nothing standardises it later). ``heads`` as there. The denominator is at least that of a graph
without relations, whose modes all have 1 / N of the trace. No Gram graph falls below that;
attention that is even everywhere does.

**Why** The diagonal measures how strongly the student's patches group as the teacher's modes do,
the rest that they do not mix them. Eigenvectors have no fixed sign, and equal eigenvalues no fixed
vectors: this form changes with neither.

**Shapes and units** Taps and the student's graph as in ``graph_lowrank``. 0 where student and
teacher agree, 1 for a student without any of the teacher's modes. Linear in the number of patches.

**Source** This project's second idea, on the low-rank graph of CASS (arXiv 2411.17150, section
3.2). Departure from dividing by k^2: relative to the teacher, so weights are comparable over k and
taps.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from freqkd_cli.features.loss import Loss, LossGroup
from freqkd_cli.losses._graph import GraphLoss
from freqkd_cli.losses._graph_arguments import Count, LowRank, StudentGraph, TeacherHeads
from freqkd_cli.registry import flattened
from freqkd_cli.spectral.assignment import Heads
from freqkd_cli.spectral.graph import count
from freqkd_cli.spectral.graph_forms import Graph
from freqkd_cli.spectral.modes import shares

GROUP: LossGroup = "relations"

UNSCALED = LowRank(scaling="none")


@flattened
def build(
    *,
    student: str,
    teacher: str,
    k: Count = 20,
    low_rank: LowRank = UNSCALED,
    teacher_heads: TeacherHeads,
    student_graph: StudentGraph,
) -> Loss:
    """Build a loss in the teacher's eigenvectors; see ``graph_lowrank`` for the graphs.

    Args:
        student: tap of the student: features or a graph.
        teacher: tap of the teacher: features, nodes or a graph.
        k: number of modes that are compared.
    """
    graphs = (low_rank.columns(k), teacher_heads.choice(), student_graph)
    return GraphBasis((student, teacher), graphs, low_rank)


class GraphBasis(GraphLoss):
    """Made by :func:`build`.

    The target is ``values`` ``[B, 1, k]``, shares of the trace, and ``vectors`` ``[B, 1, N, k]``.
    """

    target_arguments = (*GraphLoss.target_arguments, "scaling", "power", "rank", "energy")

    def __init__(
        self, taps: tuple[str, str], graphs: tuple[int, Heads, StudentGraph], low_rank: LowRank
    ) -> None:
        super().__init__(taps, *graphs)
        self.fixed_rank = low_rank.fixed
        self.low_rank = low_rank

    def describe(self, graph: Graph) -> dict[str, Tensor]:
        graph = graph.mean()
        modes, _ = self.low_rank.modes(graph, self.k)
        held = modes.values.abs().sum(-1, keepdim=True) / graph.trace()[..., None]
        return {"values": shares(self.low_rank.phi(modes)) * held, "vectors": modes.vectors}

    def distance(self, graph: Graph, target: Mapping[str, Tensor]) -> Tensor:
        values = target["values"]
        error = graph.mean().in_basis(target["vectors"]) - torch.diag_embed(values)
        unrelated = (values != 0).sum(-1).clamp(min=1) / count(graph.valid).square()
        return error.square().sum((-2, -1)) / torch.maximum(values.square().sum(-1), unrelated)
