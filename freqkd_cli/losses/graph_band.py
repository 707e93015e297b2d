"""Compare one band of graph frequencies of the student's features with that of the teacher's.

**What** U holds the k eigenvectors of smallest eigenvalue of the ``laplacian`` of the teacher's
graph. X and Y are the adapted student and the teacher on its N patches, per channel (x - mean) /
standard deviation over the patches (``normalize: none`` leaves both). ``low`` compares U U^T X and
U U^T Y, ``high`` the rest of both. The distance is |difference|^2 / (|band of Y|^2 + 1e-6 |Y|^2)
per sample, mean over the batch. ``mix`` is (1 - high_share) low + high_share high. The graph is
that of ``basis`` (without it, of the teacher's tap), its heads chosen and averaged as in
``graph_lowrank``, its edges those of ``graph_laplacian``.

**Why** This is ``band`` on the teacher's objects: low is what is constant over each region of the
teacher, wherever its borders run, and high is what differs inside. A Fourier low-pass blurs over
borders; this one does not.

**Shapes and units** Features ``[B, C, h, w]`` on the student's side; features or nodes
``[B, heads, N, d]`` on the teacher's, where channels are heads x d; ``basis`` is features, nodes or
a graph. All on the smallest grid per axis, by area means. 1 <= k < N. Void patches take no part; a
sample with at most k patches has no high band. A variance is increased by 1e-6 of the mean over
channels, so a dead channel stays small.

**Source** This project's two ideas together; graph Fourier transform after Shuman et al., The
Emerging Field of Signal Processing on Graphs (arXiv 1211.0053). Departure: bands are cut at a
number of modes, not at an eigenvalue, so every image has as many.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from freqkd_cli.errors import RecipeError
from freqkd_cli.features.adapter import Adapter, adapted
from freqkd_cli.features.graphs import node_grid, node_validity
from freqkd_cli.features.loss import Grid, Loss, LossGroup
from freqkd_cli.features.pooling import pooled
from freqkd_cli.features.taps import Tap, pick
from freqkd_cli.losses._graph import NodeLoss, mean_of_samples
from freqkd_cli.losses._graph_arguments import (
    Count,
    Edges,
    StudentGraph,
    TeacherHeads,
    check_kernel,
)
from freqkd_cli.recipe.value_types import Share
from freqkd_cli.registry import flattened
from freqkd_cli.spectral.assignment import Heads
from freqkd_cli.spectral.distances import ENERGY_EPS, ratio
from freqkd_cli.spectral.fourier import widened
from freqkd_cli.spectral.graph import ROW_FLOOR, TINY, GramKind, count, not_flat
from freqkd_cli.spectral.modes import eigenpairs, graph_fourier, signed
from freqkd_cli.views.batch import Batch

GROUP: LossGroup = "relations"

UNFILLED = 1e-3
"""A teacher's map with less than this share of a standardised one's energy is rounding."""


@flattened
def build(
    *,
    student: str,
    teacher: str,
    basis: str | None = None,
    band: Literal["low", "high", "mix"] = "low",
    k: Count = 10,
    high_share: Share = 0.5,
    edges: Edges,
    gram: GramKind = "centred",
    teacher_heads: TeacherHeads,
    normalize: Literal["channel", "none"] = "channel",
    adapter: bool = True,
) -> Loss:
    """Build a band loss on the teacher's graph; the top of the file explains every key.

    Args:
        student: tap of the student.
        teacher: tap of the teacher.
        basis: tap of the graph whose eigenvectors are used; the default is teacher.
        band: graph frequencies that are compared.
        k: number of modes in the low band.
        high_share: share of the high band in a mix, from 0 to 1.
        gram: how relations are made from features.
        normalize: channel standardises every channel over the patches.
        adapter: bring the student to the teacher's channels by a trained linear map.
    """
    share = {"low": 0.0, "high": 1.0, "mix": high_share}[band]
    graphs = (k, teacher_heads.choice(), StudentGraph("similarity", gram))
    compared = ComparedBands(teacher, share, edges, normalize == "channel", adapter)
    return GraphBand((student, basis or teacher), graphs, compared)


@dataclass(frozen=True)
class ComparedBands:
    """What is compared: the teacher's tap of features, and the share of the high band."""

    features: str
    high_share: float
    edges: Edges
    standardise: bool
    adapted: bool


class GraphBand(NodeLoss):
    """Made by :func:`build`.

    The target is ``vectors`` ``[B, 1, N, k]``, and the teacher's features on the nodes as they are
    compared, ``map`` ``[B, 1, N, C]``.
    """

    target_arguments = (
        *NodeLoss.target_arguments,
        "basis",
        "kernel",
        "tau",
        "laplacian",
        "normalize",
    )

    def __init__(
        self,
        taps: tuple[str, str],
        graphs: tuple[int, Heads, StudentGraph],
        compared: ComparedBands,
    ) -> None:
        super().__init__(taps, *graphs)
        self.compared = compared
        self.adapter: Adapter | None = None
        self.features_tap: Tap | None = None

    def teacher_taps(self, available: Mapping[str, Tap]) -> tuple[str, ...]:
        taps = tuple(available.values())
        for name, key in ((self.compared.features, "teacher"), (self.teacher, "basis")):
            pick(taps, name, "the teacher", key=key)
        return tuple(dict.fromkeys((self.compared.features, self.teacher)))

    def start(self, student: Mapping[str, Tap], teacher: Mapping[str, Tap], classes: int) -> None:
        student_tap, features_tap = student[self.student], teacher[self.compared.features]
        for side, tap, kinds in (
            ("student", student_tap, ("features", "logits")),
            ("teacher", features_tap, ("features", "logits", "nodes")),
        ):
            if tap.kind not in kinds:
                raise RecipeError(
                    f"the tap {tap.name!r} holds no features",
                    got=f"kind {tap.kind}",
                    need=" or ".join(kinds),
                    key=side,
                )
        super().start(student, teacher, classes)
        check_kernel(self.graph.gram, self.compared.edges.kernel, self.sides()[1])
        self.features_tap = features_tap
        if self.compared.adapted:
            self.adapter = Adapter(student_tap.channels, features_tap.channels)
        else:
            self.require_same_channels(student_tap, features_tap)

    def check_grids(self, student: Mapping[str, Grid], teacher: Mapping[str, Grid]) -> None:
        features = teacher[self.compared.features]
        self.check_nodes(self._nodes(student[self.student], features, teacher[self.teacher]))

    def modes_needed(self) -> int:
        return self.k + 1  # for a band and the rest

    def grid(self, batch: Batch) -> Grid:
        student, basis = self.sides()
        assert self.features_tap is not None, "start() comes first"
        size = batch.images.shape[-2:]
        return self._nodes(
            student.tap.grid(*size), self.features_tap.grid(*size), basis.tap.grid(*size)
        )

    def _nodes(self, student: Grid, features: Grid, basis: Grid) -> Grid:
        """Return the smallest grid per axis of the three taps."""
        student_tap, basis_tap = (side.tap for side in self.sides())
        assert self.features_tap is not None, "start() comes first"
        both = node_grid(student_tap, student, self.features_tap, features)
        grid = node_grid(student_tap, both, basis_tap, basis)
        return node_grid(self.features_tap, features, student_tap, grid)

    def target(
        self, teacher: Mapping[str, Tensor], batch: Batch, grids: Mapping[str, Grid]
    ) -> dict[str, Tensor]:
        grid, x = self.grid(batch), widened(teacher[self.compared.features].detach())
        assert self.features_tap is not None, "start() comes first"
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            nodes = node_validity(batch, grid)
            graph = self.teacher_graph(teacher, batch, grid, nodes).mean()
            matrix = self.compared.edges.matrix(graph)
            vectors = signed(eigenpairs(matrix, nodes, self.k, end="smallest").vectors)
            if self.features_tap.kind == "nodes":  # heads x d channels of each node
                rows = x.transpose(1, 2).flatten(2)[:, None]
            else:
                rows = pooled(x, grid).flatten(2).mT[:, None]
            return {"nodes": nodes, "vectors": vectors, "map": self._standardised(rows, nodes)}

    def forward(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int
    ) -> Tensor:
        x, grid = widened(student[self.student]), self.grid(batch)
        nodes = self.nodes(target, grid)
        with torch.autocast(x.device.type, enabled=False):
            cells = adapted(pooled(x, grid).flatten(2), self.adapter)
            rows = self._standardised(cells.mT[:, None], nodes)
            teacher, vectors = (target[name].to(rows.dtype) for name in ("map", "vectors"))
            return mean_of_samples(self._distance(rows, teacher, vectors, nodes), nodes)

    def _distance(self, rows: Tensor, teacher: Tensor, vectors: Tensor, nodes: Tensor) -> Tensor:
        """Return the weighted relative errors of the bands, ``[B]``."""
        share, difference = self.compared.high_share, rows - teacher
        whole = teacher.square().sum((1, 2, 3))
        low, of_low = (graph_fourier(x, vectors) for x in (difference, teacher))
        total = torch.zeros_like(whole)
        if share < 1:
            total = total + (1 - share) * _relative(low, of_low, whole)
        if share > 0:
            high = _relative(difference - vectors @ low, teacher - vectors @ of_low, whole)
            total = total + share * torch.where(nodes.sum(1) > self.k, high, 0.0)
        # From standardised flat features nothing can be copied.
        least = UNFILLED * nodes.sum(1) * teacher.shape[-1] if self.compared.standardise else 0.0
        return torch.where(whole <= least, 0.0, total)

    def _standardised(self, rows: Tensor, nodes: Tensor) -> Tensor:
        """Return node features ``[B, 1, N, C]`` as they are compared, void ones 0.

        A channel that varies little beside the others of its map stays small, and a flat map fades
        to 0, so that rounding is not taken for features.
        """
        inside, number = nodes[:, None, :, None].to(rows.dtype), count(nodes)[..., None, None]
        rows = rows * inside
        if not self.compared.standardise:
            return rows
        mean = rows.sum(2, keepdim=True) / number
        rows = (rows - mean) * inside
        variance = rows.square().sum(2, keepdim=True) / number
        spread, offset = (x.mean(-1, keepdim=True) for x in (variance, mean.square()))
        scale = torch.rsqrt(variance + ROW_FLOOR**2 * spread + TINY**2)
        return rows * scale * not_flat(spread, offset)


def _relative(error: Tensor, teacher: Tensor, whole: Tensor) -> Tensor:
    """``|error|^2 / (|teacher|^2 + 1e-6 |the teacher's whole map|^2)``, ``[B]``."""
    energy = teacher.square().sum((1, 2, 3)) + ENERGY_EPS * whole
    return ratio(error.square().sum((1, 2, 3)), energy)
