"""Compare heads of the student's graph with those of the teacher that they are matched with, picture by picture.

**What** Each head of either side has a spectrum (k largest eigenvalues over the sum of their magnitudes). The Hungarian method pairs heads
one to one: ``complementary`` makes the sum of ``D = sum_i |p_i - q_i|`` greatest, ``closest`` least. The loss of a pair is 1 - the
correlation of the student head's graph with the teacher head's scaled low-rank graph (as ``graph_lowrank``). ``complementary`` weighs
pairs by D over its mean, ``closest`` alike; mean over pairs and batch. Matching and weights carry no gradient.

**Why** Heads of a teacher see different things. With ``complementary`` a student head takes from the teacher head that sees what it does
not; with ``closest`` each head becomes a better version of what it is. ``heads: mean_graph`` of the other losses blurs that.

**Shapes and units** taps and the student's graph as in ``graph_lowrank``; ``groups`` of channels of the student's features, or heads of
``query_key``, are its heads, and their number must divide the channels. Pairs are as many as the smaller number of heads. Lies in [0, 2].

**Source** Complementary matching and its weights: CASS (arXiv 2411.17150, section 3.2). Departures: as a loss; a pair is used the way
round it was matched (the released code transposes it); weights are divided by their mean, so the loss keeps its size.
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
    Positive,
    Share,
    Width,
    heads_of,
    relative,
)
from freqkd_cli.spectral.assignment import Matching, match_heads
from freqkd_cli.spectral.graph import GramKind
from freqkd_cli.spectral.graph_forms import Graph, picked
from freqkd_cli.spectral.modes import Rank, Scaling, shares


def build(
    *,
    student: str,
    teacher: str,
    k: Count = 20,
    matching: Matching = "complementary",
    scaling: Scaling = "cass",
    power: Positive = 2.0,
    rank: Rank = "energy",
    energy: Share = 0.95,
    graph: Proxy | None = None,
    gram: GramKind = "centred",
    groups: Count = 4,
    width: Width = 32,
) -> Loss:
    """A loss of matched heads; see the top of the file."""
    making = Making(gram, heads_of("mean_spectrum", 1, "rank"), graph, groups, width)
    return GraphMatch(
        (student, teacher), making, LowRank(k, rank, energy, scaling, power), matching
    )


class GraphMatch(GraphLoss):
    """Made by :func:`build`. The target is ``spectrum`` ``[B, heads, k]``, shares, and the low-rank factors of each of the teacher's heads,
    ``values`` ``[B, heads, k]`` relative to its largest and ``vectors`` ``[B, heads, N, k]``; of attention also
    ``perron`` ``[B, heads, N]``.
    """

    target_arguments = ("teacher", "gram", "k", "scaling", "power", "rank", "energy")

    def __init__(
        self, taps: tuple[str, str], making: Making, low_rank: LowRank, matching: Matching
    ) -> None:
        super().__init__(taps, making, low_rank.k)
        self.low_rank, self.matching = low_rank, matching

    def describe(self, graph: Graph) -> dict[str, Tensor]:
        modes, lost = self.low_rank.modes(graph)
        spectrum = shares(graph.eigenvalues(self.k), graph.least)
        return {
            "spectrum": spectrum,
            "values": relative(self.low_rank.phi(modes)),
            "vectors": modes.vectors,
            **lost,
        }

    def distance(self, graph: Graph, target: Mapping[str, Tensor]) -> Tensor:
        with torch.no_grad():
            ours, theirs, apart = match_heads(
                graph.eigenvalues(self.k), target["spectrum"], self.matching
            )
            weights = torch.ones_like(apart) if self.matching == "closest" else _over_mean(apart)
        matched = {
            name: picked(target[name], theirs)
            for name in ("values", "vectors", "perron")
            if name in target
        }
        graph = graph.pick(ours).without(matched.get("perron"))
        return weights * graph.correlation_distance(matched["values"], matched["vectors"])


def _over_mean(weights: Tensor) -> Tensor:
    """Weights ``[B, pairs]`` of mean 1; alike where all are 0."""
    mean = weights.mean(1, keepdim=True)
    return torch.where(mean > 0, weights / torch.where(mean > 0, mean, 1.0), 1.0)
