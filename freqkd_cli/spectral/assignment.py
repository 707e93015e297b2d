"""The choice of heads that are compared: by number, by objects, or matched one to one.

Only :func:`wasserstein` carries a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from freqkd_cli.runtime.constants import constant
from freqkd_cli.spectral.graph import pairs
from freqkd_cli.spectral.graph_forms import Graph
from freqkd_cli.spectral.modes import effective_rank

Matching = Literal["closest", "complementary"]
By = Literal["labels", "rank", "energy"]

FIRST = 1e6
"""Size of a distance that is paired before all others; real ones are far smaller."""


@dataclass(frozen=True)
class Heads:
    """A recipe's ``heads``.

    Attributes:
        choice: ``mean_graph`` averages the graphs. ``mean_spectrum`` keeps all heads, whose spectra
            the loss averages. ``object`` keeps the ``count`` heads of each sample that separate
            objects best. A tuple keeps those numbers, from 0.
        count: m of ``object``.
        by: score of ``object``. ``labels``: how much nearer nodes of one class are than others;
            ``rank``: low effective rank; ``energy``: share of the first k modes.
    """

    choice: Literal["mean_graph", "mean_spectrum", "object"] | tuple[int, ...] = "mean_graph"
    count: int = 2
    by: By = "labels"

    @property
    def reads_labels(self) -> bool:
        return self.choice == "object" and self.by == "labels"

    def of(self, graph: Graph, labels: Tensor | None = None, k: int = 20) -> Graph:
        """Return the graph with these heads alone.

        The effective rank decides where there are no labels, or a sample lacks pairs of nodes of
        one class or of two.

        Args:
            labels: ``[B, N]`` for ``by: labels``, -1 where there is none.
            k: number of modes of ``by: energy``.
        """
        if self.choice == "mean_graph":
            return graph.mean()
        if self.choice == "mean_spectrum":
            return graph
        if self.choice == "object":
            scores = self._scores(graph, labels, k)
            return graph.pick(scores.topk(min(self.count, graph.heads), dim=1).indices)
        numbers = constant(self.choice, torch.int64, graph.valid.device)
        return graph.pick(numbers.expand(graph.valid.shape[0], -1))

    def _scores(self, graph: Graph, labels: Tensor | None, k: int) -> Tensor:
        first = int(graph.constant_mode)
        values = graph.modes().values[..., first:].clamp(min=0.0)
        if self.by == "energy":
            return values[..., : max(k - first, 1)].sum(-1) / values.sum(-1).clamp(min=1e-12)
        by_rank = -effective_rank(values)
        if self.by == "rank" or labels is None:
            return by_rank
        by_labels, defined = label_scores(graph.dense(), labels, graph.valid)
        return torch.where(defined, by_labels, by_rank)


@torch.no_grad()
def label_scores(graph: Tensor, labels: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Score heads by how much stronger relations inside a class are than across.

    The score is (mean over pairs of one class - mean over pairs of two) / standard deviation over
    all pairs, so it is free of each head's scale.

    Args:
        graph: ``[B, heads, N, N]``.
        labels: ``[B, N]`` int64, -1 = none.
        valid: ``[B, N]`` bool.

    Returns:
        scores ``[B, heads]``, and whether a sample has pairs of both kinds, ``[B, 1]`` bool. The
        scores are 0 where it has not.
    """
    every = pairs(valid & (labels >= 0))
    same = every & (labels[:, None, :, None] == labels[:, None, None, :])
    other = every & ~same
    defined = (same.any((-2, -1)) & other.any((-2, -1))).expand(-1, 1)

    def mean(x: Tensor, where: Tensor) -> Tensor:
        return (x * where).sum((-2, -1)) / where.sum((-2, -1)).clamp(min=1)

    deviation = (graph - mean(graph, every)[..., None, None]).square()
    spread = mean(deviation, every).sqrt().clamp(min=1e-12)
    return (mean(graph, same) - mean(graph, other)) / spread * defined, defined


def wasserstein(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the sum of |difference| of two sorted spectra over their last axis.

    This is k times the 1-Wasserstein distance of k equal masses each. For the distance of CASS the
    spectra are :func:`freqkd_cli.spectral.modes.shares` of eigenvalues. Other axes are broadcast.
    """
    return (student.sort(-1).values - teacher.sort(-1).values).abs().sum(-1)


@torch.no_grad()
def match_heads(distance: Tensor, matching: Matching = "closest") -> tuple[Tensor, Tensor, Tensor]:
    """Pair heads one to one by the Hungarian method.

    ``closest`` makes the sum of distances least, ``complementary`` greatest, as CASS does (arXiv
    2411.17150, section 3.2). Departure: the released code uses each pair the other way round, rows
    of the cost as heads of the columns' model. Here a pair is used as it was matched.

    A distance of NaN is paired before all others, so that the loss is NaN.

    Args:
        distance: of every head of the teacher from every one of the student, ``[B, Ht, Hs]``.

    Returns:
        student heads ``[B, m]``, teacher heads ``[B, m]``, ascending, and the distance of each pair
        ``[B, m]``; m = min(Hs, Ht).
    """
    from scipy.optimize import linear_sum_assignment

    greatest = matching == "complementary"
    costs = distance.cpu().double().nan_to_num(FIRST if greatest else -FIRST).numpy()
    matched = [linear_sum_assignment(cost, maximize=greatest) for cost in costs]
    of_teacher, of_student = (
        torch.stack([torch.as_tensor(pair[i]) for pair in matched]).to(distance.device)
        for i in (0, 1)
    )
    apart = distance.flatten(1).gather(1, of_teacher * distance.shape[2] + of_student)
    return of_student, of_teacher, apart
