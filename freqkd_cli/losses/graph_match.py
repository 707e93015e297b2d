"""Compare heads of the student's graph with matched heads of the teacher's, image by image.

**What** D of a pair is 1 - the correlation of the student head's graph with the teacher head's
scaled low-rank graph (as ``graph_lowrank``). The Hungarian method pairs heads one to one on D:
``complementary`` makes its sum greatest, ``closest`` least. The loss is the mean of D over pairs
and batch. ``complementary`` weights pairs by D over its mean, ``closest`` equally. Matching and
weights carry no gradient.

**Why** Heads of a teacher attend to different things. With ``complementary`` a student head learns
from the teacher head that differs most from it; with ``closest`` each head improves on what it is.
``heads: mean_graph`` of the other losses averages that away.

Heads are matched by the distance that is minimised. So the value of ``closest`` is the least over
all pairings, and a tie cannot change it. Absolute differences of sorted spectra, which CASS
matches by, are a sum of one number per head where every student spectrum is flatter than every
teacher spectrum. Then all pairings have the same sum, and rounding decides.

**Shapes and units** Taps and the student's graph as in ``graph_lowrank``. ``groups`` of channels of
the student's features, or heads of ``query_key``, are its heads; their number must divide the
channels. There are as many pairs as the smaller number of heads. Lies in [0, 2].

**Source** Complementary matching and its weights: CASS (arXiv 2411.17150, section 3.2). Departures:
as a loss; graphs are matched, not their spectra; a pair is used as it was matched (the released
code transposes it); weights are divided by their mean, so the loss keeps its size.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from freqkd_cli.features.loss import Loss, LossGroup
from freqkd_cli.losses._graph import GraphLoss, relative
from freqkd_cli.losses._graph_arguments import Count, LowRank, StudentGraph
from freqkd_cli.registry import flattened
from freqkd_cli.spectral.assignment import Heads, Matching, match_heads
from freqkd_cli.spectral.graph import picked
from freqkd_cli.spectral.graph_forms import Graph

GROUP: LossGroup = "relations"

FOUR_GROUPS = StudentGraph(groups=4)


@flattened
def build(
    *,
    student: str,
    teacher: str,
    k: Count = 20,
    matching: Matching = "complementary",
    low_rank: LowRank,
    student_graph: StudentGraph = FOUR_GROUPS,
) -> Loss:
    """Build a loss of matched heads; the top of the file explains every key.

    Args:
        student: tap of the student: features or a graph.
        teacher: tap of the teacher: features, nodes or a graph.
        k: largest number of modes.
        matching: pair each head with the one that differs most, or least.
    """
    graphs = (low_rank.columns(k), Heads("mean_spectrum", 1, "rank"), student_graph)
    return GraphMatch((student, teacher), graphs, low_rank, matching)


class GraphMatch(GraphLoss):
    """Made by :func:`build`.

    The target is the low-rank factors of each of the teacher's heads: ``values`` ``[B, heads, k]``
    relative to its largest, ``vectors`` ``[B, heads, N, k]``; of attention also ``perron``
    ``[B, heads, N]``.
    """

    target_arguments = ("teacher", "gram", "k", "scaling", "power", "rank", "energy")

    def __init__(
        self,
        taps: tuple[str, str],
        graphs: tuple[int, Heads, StudentGraph],
        low_rank: LowRank,
        matching: Matching,
    ) -> None:
        super().__init__(taps, *graphs)
        self.fixed_rank = low_rank.fixed
        self.low_rank, self.matching = low_rank, matching

    def describe(self, graph: Graph) -> dict[str, Tensor]:
        modes, lost = self.low_rank.modes(graph, self.k)
        return {"values": relative(self.low_rank.phi(modes)), "vectors": modes.vectors, **lost}

    def distance(self, graph: Graph, target: Mapping[str, Tensor]) -> Tensor:
        with torch.no_grad():
            heads = range(target["values"].shape[1])
            table = [
                _distance(graph, {name: x[:, i : i + 1] for name, x in target.items()})
                for i in heads
            ]
            student, teacher, apart = match_heads(torch.stack(table, 1), self.matching)
            weights = torch.ones_like(apart) if self.matching == "closest" else _over_mean(apart)
        matched = {name: picked(factors, teacher) for name, factors in target.items()}
        return weights * _distance(graph.pick(student), matched)


def _distance(graph: Graph, target: Mapping[str, Tensor]) -> Tensor:
    """Return the distances from as many heads of the teacher, or from one, ``[B, heads]``."""
    graph = graph.without(target.get("perron"))
    return graph.correlation_distance(target["values"], target["vectors"])


def _over_mean(weights: Tensor) -> Tensor:
    """Divide weights ``[B, pairs]`` by their mean; all 1 where all are 0."""
    mean = weights.mean(1, keepdim=True)
    equal = mean <= 0
    return torch.where(equal, 1.0, weights / torch.where(equal, 1.0, mean))
