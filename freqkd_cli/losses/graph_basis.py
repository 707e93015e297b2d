"""Compare the student's graph with the teacher's in the teacher's eigenvectors: how much it holds of each mode.

**What** ``|U^T A_S U / tr(A_S) - diag(phi(lambda)) / sum|_F^2 / |diag|_F^2`` with the teacher's k strongest eigenpairs, lambda divided by
the trace of its graph; mean over the batch. Under the fraction stands at least what a graph without relations would give, whose modes all
have 1 / N of the trace: no Gram graph falls below that, but attention that looks everywhere alike does. phi scales the eigenvalues and
keeps their sum (``scaling`` as in ``graph_lowrank``; here a stretch shows, for nothing standardises it later). ``heads`` as there.

**Why** The diagonal says how strongly the student's patches group as the teacher's modes do, the rest that they do not mix them.
Eigenvectors have no fixed sign, and equal eigenvalues no fixed vectors: this form changes with neither.

**Shapes and units** taps and the student's graph as in ``graph_lowrank``. 0 where student and teacher agree, 1 for a student without any of
the teacher's modes. Linear in the number of patches.

**Source** This project's second idea, on the low-rank graph of CASS (arXiv 2411.17150, section 3.2). Departure from the formula sheet's
``/ k^2``: relative to the teacher, so that weights are comparable over k and taps.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from freqkd_cli.features.graphs import Proxy
from freqkd_cli.features.loss import Loss
from freqkd_cli.losses._graph import (
    Count,
    GraphLoss,
    LowRank,
    Making,
    MeanHeads,
    Positive,
    Share,
    Width,
    heads_of,
)
from freqkd_cli.spectral.assignment import By
from freqkd_cli.spectral.graph import GramKind, count
from freqkd_cli.spectral.graph_forms import Graph
from freqkd_cli.spectral.modes import Rank, Scaling, shares


def build(
    *,
    student: str,
    teacher: str,
    k: Count = 20,
    scaling: Scaling = "none",
    power: Positive = 2.0,
    rank: Rank = "energy",
    energy: Share = 0.95,
    heads: MeanHeads = "mean_graph",
    object_heads: Count = 2,
    object_by: By = "labels",
    graph: Proxy | None = None,
    gram: GramKind = "centred",
    groups: Count = 1,
    width: Width = 32,
) -> Loss:
    """A loss in the teacher's eigenvectors; see the top of the file, and ``graph_lowrank`` for the student's graph."""
    making = Making(gram, heads_of(heads, object_heads, object_by), graph, groups, width)
    return GraphBasis((student, teacher), making, LowRank(k, rank, energy, scaling, power))


class GraphBasis(GraphLoss):
    """Made by :func:`build`. The target is ``values`` ``[B, 1, k]``, shares of the trace, and ``vectors`` ``[B, 1, N, k]``."""

    target_arguments = (*GraphLoss.target_arguments, "scaling", "power", "rank", "energy")

    def __init__(self, taps: tuple[str, str], making: Making, low_rank: LowRank) -> None:
        super().__init__(taps, making, low_rank.columns)
        self.low_rank = low_rank

    def describe(self, graph: Graph) -> dict[str, Tensor]:
        graph = graph.mean()
        modes, _ = self.low_rank.modes(graph)
        scaled, held = (
            self.low_rank.phi(modes),
            modes.values.abs().sum(-1, keepdim=True) / graph.trace()[..., None],
        )
        return {"values": shares(scaled) * held, "vectors": modes.vectors}

    def distance(self, graph: Graph, target: Mapping[str, Tensor]) -> Tensor:
        values = target["values"]
        error = graph.mean().in_basis(target["vectors"]) - torch.diag_embed(values)
        return error.square().sum((-2, -1)) / torch.maximum(
            values.square().sum(-1), self._unrelated(values, graph.valid)
        )

    @staticmethod
    def _unrelated(values: Tensor, valid: Tensor) -> Tensor:
        """|diag|_F^2 of a graph without relations and as many modes, ``[B, heads]``."""
        return (values != 0).sum(-1).clamp(min=1) / count(valid).square()
