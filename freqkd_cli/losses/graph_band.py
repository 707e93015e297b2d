"""Compare one band of graph frequencies of the student's features with the same band of the teacher's.

**What** U holds the k eigenvectors of smallest eigenvalue of the normalised Laplacian of the teacher's graph, X and Y the adapted student
and the teacher on its N patches, per channel (x - mean) / standard deviation over the patches (``normalize: none`` leaves both). ``low``
compares U U^T X and U U^T Y, ``high`` what is left of both; the distance is |difference|^2 / (|band of Y|^2 + 1e-6 |Y|^2) per sample, mean
over the batch; ``mix`` is (1 - high_share) low + high_share high. The graph is that of ``basis`` (the teacher's tap itself without it),
its heads chosen and averaged as in ``graph_lowrank``, its edges those of ``graph_laplacian``.

**Why** ``band`` with the teacher's objects for frequencies: low is what is constant over what the teacher takes for one region, wherever
its borders run, and high is what differs inside. A Fourier low-pass blurs over borders; this one does not.

**Shapes and units** features ``[B, C, h, w]`` on the student's side; features or nodes ``[B, heads, N, d]`` on the teacher's, nodes as
channels heads x d; ``basis`` features, nodes or a graph. All on the smallest grid per axis, by area means. 1 <= k < N. Void patches take
no part; a sample with at most k patches has no high band.

**Source** This project's two ideas together; graph Fourier transform after Shuman et al., The Emerging Field of Signal Processing on
Graphs (arXiv 1211.0053). Departure: bands are cut at a number of modes, not at an eigenvalue, so every picture has as many.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from freqkd_cli.errors import RecipeError
from freqkd_cli.features.adapter import Adapter
from freqkd_cli.features.graphs import node_grid, node_validity, pooled
from freqkd_cli.features.loss import Grid, Loss
from freqkd_cli.features.taps import Tap, pick
from freqkd_cli.losses._graph import (
    Count,
    Making,
    MeanHeads,
    NodeLoss,
    Positive,
    check_kernel,
    heads_of,
    mean_of_samples,
    signed,
)
from freqkd_cli.spectral.assignment import By
from freqkd_cli.spectral.distances import ENERGY_EPS
from freqkd_cli.spectral.fourier import widened
from freqkd_cli.spectral.graph import GramKind, Kernel, count, laplacian
from freqkd_cli.spectral.modes import eigenpairs, graph_fourier
from freqkd_cli.views.batch import Batch

FLAT = 1e-3
"""A channel that varies less than this share of its mean, or than this tenth, fades to 0, so the rounding of a flat map is no signal."""


def build(
    *,
    student: str,
    teacher: str,
    basis: str | None = None,
    band: Literal["low", "high", "mix"] = "low",
    k: Count = 10,
    high_share: Annotated[float, Field(ge=0, le=1)] = 0.5,
    kernel: Kernel = "exp",
    tau: Positive = 0.1,
    gram: GramKind = "centred",
    heads: MeanHeads = "mean_graph",
    object_heads: Count = 2,
    object_by: By = "labels",
    normalize: Literal["channel", "none"] = "channel",
    adapter: bool = True,
) -> Loss:
    """A band loss on the teacher's graph; see the top of the file."""
    making = Making(gram, heads_of(heads, object_heads, object_by), "similarity")
    share = {"low": 0.0, "high": 1.0, "mix": high_share}[band]
    how = How(share, (kernel, tau), normalize == "channel", adapter)
    return GraphBand((student, teacher, basis or teacher), making, k, how)


@dataclass(frozen=True)
class How:
    """What is compared: ``high`` is the share of the high band in the loss."""

    high: float
    edges: tuple[Kernel, float]
    standardised: bool
    adapted: bool


class GraphBand(NodeLoss):
    """Made by :func:`build`. The target is ``vectors`` ``[B, 1, N, k]``, and the teacher's features on the nodes as they are compared,
    ``map`` ``[B, 1, N, C]``.
    """

    target_arguments = (*NodeLoss.target_arguments, "basis", "kernel", "tau", "normalize")

    def __init__(self, taps: tuple[str, str, str], making: Making, k: int, how: How) -> None:
        super().__init__((taps[0], taps[2]), making, k)
        self.features, self.how = taps[1], how
        self.adapter: Adapter | None = None
        self.features_tap: Tap | None = None

    def teacher_taps(self, available: Mapping[str, Tap]) -> tuple[str, ...]:
        names = tuple(dict.fromkeys((self.features, self.teacher)))
        for name in names:
            pick(tuple(available.values()), name, "the teacher")
        return names

    def start(self, student: Mapping[str, Tap], teacher: Mapping[str, Tap], classes: int) -> None:
        super().start(student, teacher, classes)
        ours, self.features_tap = student[self.student], teacher[self.features]
        for tap, kinds in (
            (ours, ("features", "logits")),
            (self.features_tap, ("features", "logits", "nodes")),
        ):
            if tap.kind not in kinds:
                raise RecipeError(
                    f"the tap {tap.name!r} holds no features",
                    got=f"kind {tap.kind}",
                    need=" or ".join(kinds),
                )
        check_kernel(self.making.gram, self.how.edges[0], self.sides()[1])
        if self.how.adapted:
            self.adapter = Adapter(ours.channels, self.features_tap.channels)
        else:
            self.require_same_channels(ours, self.features_tap)

    def check_grids(self, student: Mapping[str, Grid], teacher: Mapping[str, Grid]) -> None:
        self.check_nodes(
            self._nodes(student[self.student], teacher[self.features], teacher[self.teacher])
        )

    def modes_wanted(self) -> int:
        return self.k + 1  # for a band and what is left of it

    def grid(self, batch: Batch) -> Grid:
        ours, theirs = self.sides()
        assert self.features_tap is not None, "start() comes first"
        return self._nodes(
            *(
                tap.grid(*batch.images.shape[-2:])
                for tap in (ours.tap, self.features_tap, theirs.tap)
            )
        )

    def _nodes(self, student: Grid, features: Grid, basis: Grid) -> Grid:
        ours, theirs = self.sides()
        assert self.features_tap is not None, "start() comes first"
        both = node_grid(ours.tap, student, self.features_tap, features)
        grid = node_grid(ours.tap, both, theirs.tap, basis)
        return node_grid(self.features_tap, features, ours.tap, grid)

    def target(
        self, teacher: Mapping[str, Tensor], batch: Batch, grids: Mapping[str, Grid]
    ) -> dict[str, Tensor]:
        grid, x = self.grid(batch), widened(teacher[self.features].detach())
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            nodes = node_validity(batch, grid)
            edges = self.of_teacher(teacher, (grid, nodes), batch).mean().edges(*self.how.edges)
            vectors = signed(eigenpairs(laplacian(edges), nodes, self.k, end="smallest").vectors)
            assert self.features_tap is not None, "start() comes first"
            # Heads x d channels of each node, or a map's cells.
            rows = (
                x.transpose(1, 2).flatten(2)[:, None]
                if self.features_tap.kind == "nodes"
                else pooled(x, grid).flatten(2).mT[:, None]
            )
            return {"nodes": nodes, "vectors": vectors, "map": self._standardised(rows, nodes)}

    def forward(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int
    ) -> Tensor:
        x, grid = widened(student[self.student]), self.grid(batch)
        nodes = self.nodes(target, grid)
        with torch.autocast(x.device.type, enabled=False):
            cells = pooled(x, grid).flatten(2)
            ours = self._standardised(
                (cells if self.adapter is None else self.adapter(cells)).mT[:, None], nodes
            )
            theirs, vectors = (target[name].to(ours.dtype) for name in ("map", "vectors"))
            return mean_of_samples(self._distance(ours - theirs, theirs, vectors, nodes), nodes)

    def _distance(
        self, difference: Tensor, theirs: Tensor, vectors: Tensor, nodes: Tensor
    ) -> Tensor:
        """The bands' relative errors, weighted, ``[B]``."""
        share, whole = self.how.high, theirs.square().sum((1, 2, 3))
        low, of_low = (graph_fourier(x, vectors) for x in (difference, theirs))
        total = torch.zeros_like(whole)
        if share < 1:
            total = total + (1 - share) * _relative(low, of_low, whole)
        if share > 0:
            rest = _relative(difference - vectors @ low, theirs - vectors @ of_low, whole)
            total = total + share * torch.where(nodes.sum(1) > self.k, rest, 0.0)
        # What standardising leaves of flat features is rounding, from which nothing can be copied.
        least = FLAT * nodes.sum(1) * theirs.shape[-1] if self.how.standardised else 0.0
        return torch.where(whole > least, total, 0.0)

    def _standardised(self, rows: Tensor, nodes: Tensor) -> Tensor:
        """Node features ``[B, 1, N, C]``, void ones 0."""
        inside, number = nodes[:, None, :, None].to(rows.dtype), count(nodes)[..., None, None]
        rows = rows * inside
        if not self.how.standardised:
            return rows
        mean = rows.sum(2, keepdim=True) / number
        rows = (rows - mean) * inside
        variance = rows.square().sum(2, keepdim=True) / number
        return rows * torch.rsqrt(variance + FLAT**2 * mean.square() + (0.1 * FLAT) ** 2)


def _relative(error: Tensor, theirs: Tensor, whole: Tensor) -> Tensor:
    """|error|^2 / (|theirs|^2 + 1e-6 |the teacher's whole map|^2), ``[B]``."""
    below = theirs.square().sum((1, 2, 3)) + ENERGY_EPS * whole
    return error.square().sum((1, 2, 3)) / torch.where(below > 0, below, 1.0)
