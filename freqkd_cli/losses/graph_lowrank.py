"""Compare the student's graph with the teacher's strongest modes: which patches belong together.

**What** The teacher's graph is the mean over its heads (``heads: mean_graph``), over the ``object_heads`` that see objects best
(``object``, see ``graph_spectrum``), or over a list of heads from 0. Its strongest modes by magnitude, at most k and as many as hold
``energy`` of the whole spectrum's magnitude (``rank: cass_fixed_10``: always 10), are scaled and give A~ = U diag(phi(lambda)) U^T. The
loss is 1 - the correlation of the student's graph with A~ over pairs of different patches, mean over the batch. ``minmax_mse`` and
``row_kl`` are dense: both graphs are mapped to [0, 1] over those pairs, then compared by the mean square, or row by row as KL(softmax of
the teacher's / tau, of the student's / tau). ``scaling: cass`` stretches the eigenvalues (largest times 1.5, smallest times 0.5, linear
between), which any later standardisation almost undoes; ``power``, phi = lambda^power, survives it; ``none``.

**Why** The leading eigenvectors of a teacher's keys are objects and regions. The student, which may have no attention, gets a graph of its
own features and learns the same grouping, without adapter, equal channels or equal heads.

**Shapes and units** ``graph: similarity`` makes the student's graph of features ``[B, C, h, w]`` (cosines after centring; ``groups`` of
channels are heads), ``query_key`` of one shared projection of them to ``groups`` x ``width`` channels, trained with the student and never
exported, ``state_affinity`` takes a tap that is a graph ``[B, heads, N, N]``; by default what the tap asks for. The teacher's tap is
nodes ``[B, heads, N, d]`` (``keys4``), a graph (``attention4``) or features. Nodes are the cells of the smaller grid per axis; void ones
take no part. The default lies in [0, 2]; it is computed from factors, linear in the number of patches. Attention loses its Perron mode,
how much every patch is looked at; a student's tap that is a graph (``affinity4``) loses the same mode, or the even one beside features.
``gram``: ``centred``, cosines of centred features, on both sides, or ``raw``, K K^T / sqrt(d) as CASS has it.

**Source** Low rank, its energy rule and scaling: CASS (arXiv 2411.17150, section 3.2), which blends such graphs without training.
Departures: as a loss; energy of the whole spectrum, where the released code always keeps 10 modes; correlation instead of min-max.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

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
    relative,
)
from freqkd_cli.spectral.assignment import By
from freqkd_cli.spectral.graph import GramKind, pairs
from freqkd_cli.spectral.graph_forms import Graph
from freqkd_cli.spectral.modes import Rank, Scaling, rebuilt

Distance = Literal["correlation", "minmax_mse", "row_kl"]

FLAT = 1e-3
"""A graph whose entries spread less than this share of its unit is not stretched to [0, 1] any further."""


def build(
    *,
    student: str,
    teacher: str,
    k: Count = 20,
    distance: Distance = "correlation",
    tau: Positive = 0.1,
    scaling: Scaling = "cass",
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
    """A loss of low-rank graphs; see the top of the file."""
    making = Making(gram, heads_of(heads, object_heads, object_by), graph, groups, width)
    return GraphLowRank(
        (student, teacher), making, LowRank(k, rank, energy, scaling, power), distance, tau
    )


class GraphLowRank(GraphLoss):
    """Made by :func:`build`. The target is the teacher's factors: ``values`` ``[B, 1, k]`` relative to the largest, ``vectors``
    ``[B, 1, N, k]``; of attention also ``perron`` ``[B, 1, N]``.
    """

    target_arguments = (*GraphLoss.target_arguments, "scaling", "power", "rank", "energy")

    def __init__(
        self, taps: tuple[str, str], making: Making, low_rank: LowRank, how: Distance, tau: float
    ) -> None:
        super().__init__(taps, making, low_rank.columns)
        self.low_rank, self.how, self.tau = low_rank, how, tau

    def describe(self, graph: Graph) -> dict[str, Tensor]:
        modes, lost = self.low_rank.modes(graph.mean())
        return {"values": relative(self.low_rank.phi(modes)), "vectors": modes.vectors, **lost}

    def distance(self, graph: Graph, target: Mapping[str, Tensor]) -> Tensor:
        graph = graph.mean().without(target.get("perron"))
        if self.how == "correlation":
            return graph.correlation_distance(target["values"], target["vectors"])
        off = pairs(graph.valid)
        ours = stretched(graph.dense(), off, FLAT * graph.unit())
        theirs = stretched(
            rebuilt(target["values"], target["vectors"]),
            off,
            torch.full_like(target["values"][..., 0], 1e-6),
        )
        if self.how == "minmax_mse":
            return ((ours - theirs).square() * off).sum((-2, -1)) / off.sum((-2, -1)).clamp(min=1)
        return row_kl(ours / self.tau, theirs / self.tau, off)


def stretched(graph: Tensor, off: Tensor, floor: Tensor) -> Tensor:
    """The entries that ``off`` ``[B, 1, N, N]`` marks, mapped to [0, 1]; others 0. ``floor`` ``[B, heads]`` is the least spread."""
    low = graph.masked_fill(~off, torch.inf).amin((-2, -1), keepdim=True)
    high = graph.masked_fill(~off, -torch.inf).amax((-2, -1), keepdim=True)
    some = torch.isfinite(low)
    low, high = torch.where(some, low, 0.0), torch.where(some, high, 0.0)
    return ((graph - low) / torch.maximum(high - low, floor[..., None, None])).masked_fill(
        ~off, 0.0
    )


def row_kl(ours: Tensor, theirs: Tensor, off: Tensor) -> Tensor:
    """Mean over nodes of KL(softmax of a row of ``theirs``, of ``ours``) over the entries that ``off`` marks, ``[B, heads]``."""
    some = off.any(-1, keepdim=True)
    masked = off | ~some  # a row without entries is uniform on both sides, and not 0 / 0
    p, q = (
        x.masked_fill(~masked, -torch.inf).log_softmax(-1).masked_fill(~masked, 0.0)
        for x in (theirs, ours)
    )
    per_row = (p.exp() * (p - q) * off).sum(-1)
    return per_row.sum(-1) / some[..., 0].sum(-1).clamp(min=1)
