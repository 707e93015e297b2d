"""Compare the student's graph with the teacher's strongest modes: which patches belong together.

**What** The loss is 1 - the correlation of the student's graph with a low-rank teacher graph A~
over pairs of different patches, mean over the batch.

- ``heads`` of the teacher's tap are averaged to one graph: all (``mean_graph``), the
  ``object_heads`` that separate objects best (``object``, see ``graph_spectrum``), or a list of
  numbers from 0.
- A~ = U diag(phi(lambda)) U^T of the strongest modes by magnitude: at most k, and as many as hold
  ``energy`` of the whole spectrum's magnitude (``rank: cass_fixed_10``: always 10).
- ``scaling: power``, phi = sign(lambda) |lambda|^power, amplifies large eigenvalues and damps
  small ones. ``cass``, the paper's, stretches them (largest times 1.5, smallest times 0.5, linear
  between), which the standardisation inside a correlation almost undoes. ``none`` leaves them.
- ``minmax_mse`` and ``row_kl`` are dense: both graphs are mapped to [0, 1] over those pairs. They
  are compared by the mean square, or row by row as KL(softmax of the teacher's / tau, of the
  student's / tau).

**Why** The leading eigenvectors of a teacher's keys are objects and regions. The student, which may
have no attention, learns the same grouping through a graph of its own features, without adapter,
equal channels or equal heads.

**Shapes and units** The teacher's tap is nodes ``[B, heads, N, d]`` (``keys4``), a graph
(``attention4``) or features. Nodes are the cells of the smaller grid per axis; void ones take no
part. The default lies in [0, 2], computed from factors, linear in the number of patches. The
student's graph, by default what its tap allows:

- ``graph: similarity`` from features ``[B, C, h, w]`` (cosines after centring; ``groups`` of
  channels are heads);
- ``query_key`` from one shared projection of them to ``groups`` x ``width`` channels, trained with
  the student and never exported. ``projection: separate`` has one for queries and one for keys, of
  the cells after LayerNorm; the graph is the attention softmax(Q K^T / sqrt(width));
- ``state_affinity`` is a tap that is a graph ``[B, heads, N, N]``.

Attention loses its Perron mode, how much every patch is attended to. A student's graph that is
attention or affinity loses the same mode, or the even one beside features. ``gram: centred``,
cosines of centred features, and ``raw``, K K^T / sqrt(d) as in CASS, count for both sides.

**Source** Low rank, its energy rule and scaling: CASS (arXiv 2411.17150, section 3.2), which blends
such graphs without training. Departures: as a loss; energy of the whole spectrum, where the
released code always keeps 10 modes; correlation instead of min-max.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from freqkd_cli.features.loss import Loss, LossGroup
from freqkd_cli.losses._graph import GraphLoss, relative
from freqkd_cli.losses._graph_arguments import (
    Count,
    LowRank,
    Positive,
    StudentGraph,
    TeacherHeads,
)
from freqkd_cli.registry import flattened
from freqkd_cli.spectral.assignment import Heads
from freqkd_cli.spectral.graph import pairs
from freqkd_cli.spectral.graph_forms import Graph
from freqkd_cli.spectral.modes import rebuilt

GROUP: LossGroup = "relations"

Distance = Literal["correlation", "minmax_mse", "row_kl"]

FLAT = 1e-3
"""A graph whose entries spread less than this share of its unit is not stretched to [0, 1]."""


@flattened
def build(
    *,
    student: str,
    teacher: str,
    k: Count = 20,
    distance: Distance = "correlation",
    tau: Positive = 0.1,
    low_rank: LowRank,
    teacher_heads: TeacherHeads,
    student_graph: StudentGraph,
) -> Loss:
    """Build a loss of low-rank graphs; the top of the file explains every key.

    Args:
        student: tap of the student: features or a graph.
        teacher: tap of the teacher: features, nodes or a graph.
        k: largest number of modes.
        distance: of the graphs.
        tau: temperature of row_kl.
    """
    graphs = (low_rank.columns(k), teacher_heads.choice(), student_graph)
    return GraphLowRank((student, teacher), graphs, low_rank, distance, tau)


class GraphLowRank(GraphLoss):
    """Made by :func:`build`.

    The target is the teacher's factors: ``values`` ``[B, 1, k]`` relative to the largest, and
    ``vectors`` ``[B, 1, N, k]``; of attention also ``perron`` ``[B, 1, N]``.
    """

    target_arguments = (*GraphLoss.target_arguments, "scaling", "power", "rank", "energy")

    def __init__(
        self,
        taps: tuple[str, str],
        graphs: tuple[int, Heads, StudentGraph],
        low_rank: LowRank,
        kind: Distance,
        tau: float,
    ) -> None:
        super().__init__(taps, *graphs)
        self.fixed_rank = low_rank.fixed
        self.low_rank, self.kind, self.tau = low_rank, kind, tau

    def describe(self, graph: Graph) -> dict[str, Tensor]:
        modes, lost = self.low_rank.modes(graph.mean(), self.k)
        return {"values": relative(self.low_rank.phi(modes)), "vectors": modes.vectors, **lost}

    def distance(self, graph: Graph, target: Mapping[str, Tensor]) -> Tensor:
        graph = graph.mean().without(target.get("perron"))
        values, vectors = target["values"], target["vectors"]
        if self.kind == "correlation":
            return graph.correlation_distance(values, vectors)
        off = pairs(graph.valid)
        student = stretched(graph.dense(), off, FLAT * graph.unit())
        teacher = stretched(rebuilt(values, vectors), off, torch.full_like(values[..., 0], 1e-6))
        if self.kind == "minmax_mse":
            error = ((student - teacher).square() * off).sum((-2, -1))
            return error / off.sum((-2, -1)).clamp(min=1)
        return row_kl(student / self.tau, teacher / self.tau, off)


def stretched(graph: Tensor, off: Tensor, floor: Tensor) -> Tensor:
    """Map the entries that ``off`` ``[B, 1, N, N]`` marks to [0, 1], and the others to 0.

    Args:
        floor: ``[B, heads]``, the least spread that is divided by.
    """
    low = graph.masked_fill(~off, torch.inf).amin((-2, -1), keepdim=True)
    high = graph.masked_fill(~off, -torch.inf).amax((-2, -1), keepdim=True)
    some = torch.isfinite(low)
    low, high = torch.where(some, low, 0.0), torch.where(some, high, 0.0)
    spread = torch.maximum(high - low, floor[..., None, None])
    return ((graph - low) / spread).masked_fill(~off, 0.0)


def row_kl(student: Tensor, teacher: Tensor, off: Tensor) -> Tensor:
    """Return the mean over nodes of KL(softmax of the teacher's row, of the student's).

    Over the entries that ``off`` marks; ``[B, heads]``.
    """
    some = off.any(-1, keepdim=True)
    masked = off | ~some  # a row without entries is uniform on both sides, and not 0 / 0
    p, q = (
        x.masked_fill(~masked, -torch.inf).log_softmax(-1).masked_fill(~masked, 0.0)
        for x in (teacher, student)
    )
    per_row = (p.exp() * (p - q) * off).sum(-1)
    return per_row.sum(-1) / some[..., 0].sum(-1).clamp(min=1)
