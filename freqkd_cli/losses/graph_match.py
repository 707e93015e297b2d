"""Compare heads of the student's graph with matched heads of the teacher's, image by image.

**What** Each head of either side has a spectrum (k largest eigenvalues over the sum of their
magnitudes). The Hungarian method pairs heads one to one: ``complementary`` makes the sum of
``D = sum_i |p_i - q_i|`` greatest, ``closest`` least. The loss of a pair is 1 - the correlation of
the student head's graph with the teacher head's scaled low-rank graph (as ``graph_lowrank``).
``complementary`` weights pairs by D over its mean, ``closest`` equally; mean over pairs and batch.
Matching and weights carry no gradient.

**Why** Heads of a teacher attend to different things. With ``complementary`` a student head learns
from the teacher head that differs most from it; with ``closest`` each head improves on what it is.
``heads: mean_graph`` of the other losses averages that away.

**Shapes and units** Taps and the student's graph as in ``graph_lowrank``. ``groups`` of channels of
the student's features, or heads of ``query_key``, are its heads; their number must divide the
channels. There are as many pairs as the smaller number of heads. Lies in [0, 2].

**Source** Complementary matching and its weights: CASS (arXiv 2411.17150, section 3.2). Departures:
as a loss; a pair is used as it was matched (the released code transposes it); weights are divided
by their mean, so the loss keeps its size.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from freqkd_cli.features.loss import Loss
from freqkd_cli.losses._graph import GraphLoss, relative
from freqkd_cli.losses._graph_arguments import Count, LowRank, StudentGraph
from freqkd_cli.registry import flattened
from freqkd_cli.spectral.assignment import Heads, Matching, match_heads
from freqkd_cli.spectral.graph_forms import Graph, picked
from freqkd_cli.spectral.modes import shares

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
    """Build a loss of matched heads; the top of the file explains every key."""
    graphs = (k, Heads("mean_spectrum", 1, "rank"), student_graph)
    return GraphMatch((student, teacher), graphs, low_rank, matching)


class GraphMatch(GraphLoss):
    """Made by :func:`build`.

    The target is ``spectrum`` ``[B, heads, k]``, shares, and the low-rank factors of each of the
    teacher's heads: ``values`` ``[B, heads, k]`` relative to its largest, ``vectors``
    ``[B, heads, N, k]``; of attention also ``perron`` ``[B, heads, N]``.
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
        self.low_rank, self.matching = low_rank, matching

    def describe(self, graph: Graph) -> dict[str, Tensor]:
        modes, lost = self.low_rank.modes(graph, self.k)
        return {
            "spectrum": shares(graph.eigenvalues(self.k), graph.least),
            "values": relative(self.low_rank.phi(modes)),
            "vectors": modes.vectors,
            **lost,
        }

    def distance(self, graph: Graph, target: Mapping[str, Tensor]) -> Tensor:
        with torch.no_grad():
            student, teacher, apart = match_heads(
                graph.eigenvalues(self.k), target["spectrum"], self.matching
            )
            weights = torch.ones_like(apart) if self.matching == "closest" else _over_mean(apart)
        matched = {
            name: picked(target[name], teacher)
            for name in ("values", "vectors", "perron")
            if name in target
        }
        graph = graph.pick(student).without(matched.get("perron"))
        return weights * graph.correlation_distance(matched["values"], matched["vectors"])


def _over_mean(weights: Tensor) -> Tensor:
    """Divide weights ``[B, pairs]`` by their mean; all 1 where all are 0."""
    mean = weights.mean(1, keepdim=True)
    return torch.where(mean > 0, weights / torch.where(mean > 0, mean, 1.0), 1.0)
