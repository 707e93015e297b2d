"""Compare eigenvalues: how many things the patches fall into, and how large they are.

**What** ``sum_i |p_i - q_i|`` of the k largest eigenvalues of the two graphs, each spectrum sorted and divided by the sum of its
magnitudes (``w1``), or the mean of (p_i - q_i)^2 (``mse``); mean over the batch. ``matrix: laplacian`` takes the k smallest eigenvalues
but the first of the normalised Laplacian of the kernel's graph instead (see ``graph_laplacian``). ``heads: mean_spectrum`` averages the
spectra of the teacher's heads, ``mean_graph`` their graphs (another spectrum), ``object`` the spectra of the ``object_heads`` heads of
each picture that see objects best, by ``labels`` (mean relation inside a class less that across, over the standard deviation; ``rank``
where there are no labels), ``rank`` (low effective rank) or ``energy`` (share of the first k modes); a list of numbers from 0 those heads.
The student's heads are averaged likewise.

**Why** A spectrum needs no matching of channels, of heads or of eigenvectors: a student without attention is told how strongly the
teacher groups what it sees. It is blind to layout (any permutation of the patches has the same), so it should never be the only loss of
relations: give it ``graph_lowrank``, ``band`` or ``feature`` as company.

**Shapes and units** the student's tap, features ``[B, C, h, w]`` or a graph ``[B, heads, N, N]``; the teacher's, features, nodes
``[B, heads, N, d]`` or a graph, whose Perron mode is left out. Both live on N = h w nodes, per axis the smaller grid; void nodes take no
part. ``w1`` lies in [0, 2]. ``mse`` of shares is small: weights of some hundreds.

**Source** Spectra, k = 20 and their distance after CASS (arXiv 2411.17150, section 3.2), which uses them to match heads without training.
Departures: as a loss; shares of the eigenvalues themselves, without an L2 norm before; centred cosines unless ``gram: raw``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from freqkd_cli.features.graphs import Proxy
from freqkd_cli.features.loss import Loss
from freqkd_cli.features.taps import Tap
from freqkd_cli.losses._graph import (
    Count,
    GraphLoss,
    Making,
    Numbers,
    Positive,
    Width,
    check_kernel,
    heads_of,
    laplacian_eigenvalues,
)
from freqkd_cli.spectral.assignment import By, wasserstein
from freqkd_cli.spectral.graph import GramKind, Kernel
from freqkd_cli.spectral.graph_forms import Graph
from freqkd_cli.spectral.modes import shares

Matrix = Literal["adjacency", "laplacian"]


def build(
    *,
    student: str,
    teacher: str,
    k: Count = 20,
    distance: Literal["w1", "mse"] = "w1",
    heads: Literal["mean_graph", "mean_spectrum", "object"] | Numbers = "mean_spectrum",
    object_heads: Count = 2,
    object_by: By = "labels",
    matrix: Matrix = "adjacency",
    kernel: Kernel = "exp",
    tau: Positive = 0.1,
    graph: Proxy | None = None,
    gram: GramKind = "centred",
    groups: Count = 1,
    width: Width = 32,
) -> Loss:
    """A loss of eigenvalues; see the top of the file, and ``graph_lowrank`` for the student's graph."""
    making = Making(gram, heads_of(heads, object_heads, object_by), graph, groups, width)
    return GraphSpectrum((student, teacher), making, k, distance, matrix, (kernel, tau))


class GraphSpectrum(GraphLoss):
    """Made by :func:`build`. The target is the teacher's spectrum, ``spectrum`` ``[B, k]``."""

    target_arguments = (*GraphLoss.target_arguments, "matrix", "kernel", "tau")

    def __init__(
        self,
        taps: tuple[str, str],
        making: Making,
        k: int,
        how: Literal["w1", "mse"],
        matrix: Matrix,
        edges: tuple[Kernel, float],
    ) -> None:
        super().__init__(taps, making, k)
        self.how, self.matrix, self.edges = how, matrix, edges

    def start(self, student: Mapping[str, Tap], teacher: Mapping[str, Tap], classes: int) -> None:
        super().start(student, teacher, classes)
        if self.matrix == "laplacian":
            check_kernel(self.making.gram, self.edges[0], *self.sides())

    def modes_wanted(self) -> int:
        return super().modes_wanted() if self.matrix == "adjacency" else self.k + 1

    def describe(self, graph: Graph) -> dict[str, Tensor]:
        return {"spectrum": self._spectrum(graph)}

    def distance(self, graph: Graph, target: Mapping[str, Tensor]) -> Tensor:
        if self.making.heads.how == "mean_graph":
            graph = graph.mean()
        ours, theirs = self._spectrum(graph), target["spectrum"]
        return wasserstein(ours, theirs) if self.how == "w1" else (ours - theirs).square().mean(-1)

    def _spectrum(self, graph: Graph) -> Tensor:
        """The mean over heads of each head's shares, ``[B, k]``."""
        if self.matrix == "adjacency":
            return shares(graph.eigenvalues(self.k), graph.least).mean(1)
        return shares(laplacian_eigenvalues(graph, self.k, *self.edges)).mean(1)
