"""Compare eigenvalues: the number and the size of the groups that the patches form.

**What** ``sum_i |p_i - q_i|`` of the k largest eigenvalues of the two graphs (``w1``), or the mean
of (p_i - q_i)^2 (``mse``); mean over the batch. Each spectrum is sorted and divided by the sum of
its magnitudes. ``matrix: laplacian`` takes the k smallest eigenvalues but the first of the
Laplacian instead (``laplacian``, ``kernel`` and ``tau`` as in ``graph_laplacian``). The teacher's
heads:

- ``heads: mean_spectrum`` averages the spectra of the heads, ``mean_graph`` their graphs (another
  spectrum). The student's heads are averaged likewise. A list of numbers from 0 takes those heads.
- ``object`` takes the spectra of the ``object_heads`` heads of each image that separate objects
  best. ``object_by: labels`` is the mean relation inside a class less that across, over the
  standard deviation (``rank`` where there are no labels). ``rank`` prefers a low effective rank,
  ``energy`` a large share of the first k modes.

**Why** A spectrum needs no matching of channels, heads or eigenvectors, so a student without
attention can learn how strongly the teacher groups patches. It is blind to layout (any permutation
of the patches has the same spectrum). Combine it with ``graph_lowrank``, ``band`` or ``feature``.

**Shapes and units** The student's tap is features ``[B, C, h, w]`` or a graph ``[B, heads, N, N]``.
The teacher's is features, nodes ``[B, heads, N, d]`` or a graph, whose Perron mode is left out.
Both live on N = h w nodes, per axis the smaller grid; void nodes take no part. ``w1`` lies in [0,
2]. ``mse`` of shares is small: it needs weights of some hundreds.

**Source** Spectra, k = 20 and their distance after CASS (arXiv 2411.17150, section 3.2), which uses
them to match heads without training. Departures: as a loss; shares of the eigenvalues themselves,
without an L2 norm before; centred cosines unless ``gram: raw``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from freqkd_cli.features.loss import Loss, LossGroup
from freqkd_cli.features.taps import Tap
from freqkd_cli.losses._graph import GraphLoss, laplacian_eigenvalues
from freqkd_cli.losses._graph_arguments import (
    Count,
    Edges,
    Numbers,
    StudentGraph,
    TeacherHeads,
    check_kernel,
    check_same_rule,
)
from freqkd_cli.registry import flattened
from freqkd_cli.spectral.assignment import Heads, wasserstein
from freqkd_cli.spectral.graph_forms import Graph
from freqkd_cli.spectral.modes import shares

GROUP: LossGroup = "relations"

Matrix = Literal["adjacency", "laplacian"]


@dataclass(frozen=True)
class SpectrumHeads(TeacherHeads):
    """Which of the teacher's heads are compared; their graphs or their spectra are averaged.

    Attributes:
        heads: mean_graph averages all graphs, mean_spectrum all spectra; object takes those that
            separate objects best, or a list of numbers from 0.
    """

    heads: Literal["mean_graph", "mean_spectrum", "object"] | Numbers = "mean_spectrum"


@flattened
def build(
    *,
    student: str,
    teacher: str,
    k: Count = 20,
    distance: Literal["w1", "mse"] = "w1",
    teacher_heads: SpectrumHeads,
    matrix: Matrix = "adjacency",
    edges: Edges,
    student_graph: StudentGraph,
) -> Loss:
    """Build a loss of eigenvalues; ``graph_lowrank`` explains the student's graph.

    Args:
        student: tap of the student: features or a graph.
        teacher: tap of the teacher: features, nodes or a graph.
        k: number of eigenvalues.
        distance: of the sorted spectra.
        matrix: whose eigenvalues are compared.
    """
    graphs = (k, teacher_heads.choice(), student_graph)
    return GraphSpectrum((student, teacher), graphs, distance, matrix, edges)


class GraphSpectrum(GraphLoss):
    """Made by :func:`build`. The target is the teacher's spectrum, ``spectrum`` ``[B, k]``."""

    target_arguments = (*GraphLoss.target_arguments, "matrix", "kernel", "tau", "laplacian")

    def __init__(
        self,
        taps: tuple[str, str],
        graphs: tuple[int, Heads, StudentGraph],
        kind: Literal["w1", "mse"],
        matrix: Matrix,
        edges: Edges,
    ) -> None:
        super().__init__(taps, *graphs)
        self.kind, self.matrix, self.edges = kind, matrix, edges

    def start(self, student: Mapping[str, Tap], teacher: Mapping[str, Tap], classes: int) -> None:
        super().start(student, teacher, classes)
        if self.matrix == "laplacian":
            check_kernel(self.graph.gram, self.edges.kernel, *self.sides())
            check_same_rule(*self.sides())

    def modes_needed(self) -> int:
        return super().modes_needed() if self.matrix == "adjacency" else self.k + 1

    def describe(self, graph: Graph) -> dict[str, Tensor]:
        return {"spectrum": self._spectrum(graph)}

    def distance(self, graph: Graph, target: Mapping[str, Tensor]) -> Tensor:
        graph = graph.mean() if self.heads.choice == "mean_graph" else graph
        student, teacher = self._spectrum(graph), target["spectrum"]
        if self.kind == "w1":
            return wasserstein(student, teacher)
        return (student - teacher).square().mean(-1)

    def _spectrum(self, graph: Graph) -> Tensor:
        """Return the mean over heads of each head's shares, ``[B, k]``."""
        if self.matrix == "adjacency":
            return shares(graph.eigenvalues(self.k), graph.least).mean(1)
        return shares(laplacian_eigenvalues(graph, self.k, self.edges)).mean(1)
