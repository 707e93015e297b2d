"""The graphs of a model's taps: eigenvalues, effective rank, Laplacian, and the leading eigenvectors; the student beside its teacher.

Both graphs of a pair have the same nodes, those of the coarser grid, void ones left out. The heads of a graph are averaged into one graph.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from freqkd_cli.errors import TrainingFailed, UsageError
from freqkd_cli.features.graphs import GraphSide, node_validity
from freqkd_cli.features.loss import Grid
from freqkd_cli.features.taps import Tap
from freqkd_cli.runtime.files import write_csv
from freqkd_cli.spectral.attention_distance import attention_distance
from freqkd_cli.spectral.graph import laplacian
from freqkd_cli.spectral.graph_forms import Graph
from freqkd_cli.spectral.modes import Modes, effective_rank, eigenvalues, shares
from freqkd_cli.spectrum.graph_pairs import Pair
from freqkd_cli.spectrum.radial import Subject, by_role
from freqkd_cli.views.batch import Batch

COUNT = 20
"""Eigenvalues that are told, as many as CASS compares (arXiv 2411.17150)."""

SHOWN = 4
"""Eigenvectors that are drawn."""

TAU = 0.1
"""Of the kernel exp(cos / tau) that makes a graph of cosines one with a Laplacian."""

Taps = Mapping[str, Mapping[str, Tensor]]
"""Role -> tap -> tensor."""


@dataclass(frozen=True)
class GraphSpectrum:
    """The spectrum of one tap's graph, averaged over images, entry by entry over those that have it.

    Attributes:
        nodes: mean number of nodes that are not void.
        eigenvalues: the largest, descending; of attention without the Perron mode.
        shares: those over the sum of all magnitudes of their image.
        effective_rank: exp(entropy of all shares).
        laplacian: the smallest eigenvalues of the normalised Laplacian, ascending.
        distance: mean attention distance in image pixels, over heads; None where the tap is not a graph.
    """

    stage: str
    role: str
    model: str
    tap: str
    grid: Grid
    nodes: float
    eigenvalues: list[float]
    shares: list[float]
    effective_rank: float
    laplacian: list[float]
    distance: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key not in ("stage", "role")}


@dataclass(frozen=True)
class EigenMaps:
    """The leading eigenvectors of one graph of one image.

    Attributes:
        numbers: which eigenvectors, from 1 by falling eigenvalue: a student's are those most like its teacher's, column by column.
        likeness: magnitude of the cosine with the teacher's eigenvector of the same column; None where there is no other.
        maps: ``[columns, h, w]``, NaN on void nodes; of the sign of the column's first, where the sum of cubes is positive.
    """

    stage: str
    role: str
    tap: str
    numbers: list[int]
    shares: list[float]
    likeness: list[float] | None
    maps: Tensor


@dataclass(frozen=True)
class Picture:
    """One image ``[H, W, 3]`` uint8 in its view's frame, which of its pixels are valid, and what its graphs see, teacher before student."""

    name: str
    image: Tensor
    valid: Tensor
    rows: list[EigenMaps]


@dataclass(frozen=True)
class GraphSpectra:
    """The result: a :class:`GraphSpectrum` for each pair and role, student before teacher."""

    source: str
    kind: str
    images: int
    found: list[GraphSpectrum]
    pictures: list[Picture] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        facts = {"source": self.source, "kind": self.kind, "images": self.images, "tau": TAU}
        return facts | by_role((item.role, item.stage, item.to_json()) for item in self.found)

    def write_csv(self, path: Path) -> None:
        """One row per pair, role and place in the spectrum."""
        rows: list[list[Any]] = [
            ["stage", "role", "model", "tap", "number", "eigenvalue", "share", "laplacian"]
        ]
        for item in self.found:
            for number in range(max(len(item.eigenvalues), len(item.laplacian))):
                columns = (item.eigenvalues, item.shares, item.laplacian)
                values = [
                    f"{column[number]:.9g}" if number < len(column) else "" for column in columns
                ]
                rows.append([item.stage, item.role, item.model, item.tap, number + 1, *values])
        write_csv(path, rows)


class _Means:
    """Rows of numbers of one graph, image by image."""

    def __init__(self, grid: Grid) -> None:
        self.grid, self.rows = (
            grid,
            {
                name: []
                for name in (
                    "nodes",
                    "eigenvalues",
                    "shares",
                    "effective_rank",
                    "laplacian",
                    "distance",
                )
            },
        )

    def add(self, graph: Graph, modes: Modes, reach: Tensor) -> None:
        nodes = int(graph.valid.sum())
        edges = graph.edges("exp", TAU)
        low = eigenvalues(laplacian(edges), graph.valid, min(COUNT, nodes), end="smallest")[0, 0]
        values = modes.values[modes.kept]
        found = {"eigenvalues": values[:COUNT], "shares": shares(values)[:COUNT], "laplacian": low}
        found |= {
            "nodes": torch.tensor([nodes]),
            "effective_rank": effective_rank(values)[None],
            "distance": reach,
        }
        for name, row in found.items():
            self.rows[name].append(
                torch.nn.functional.pad(row.double(), (0, COUNT - len(row)), value=torch.nan)
            )

    def mean(self, name: str) -> list[float]:
        means = torch.stack(self.rows[name]).nanmean(0)
        return means[~means.isnan()].tolist()


@torch.inference_mode()
def measure_graphs(
    subjects: Sequence[Subject],
    pairs: Sequence[Pair],
    items: Iterable[tuple[str, Batch, Taps]],
    *,
    drawn: Collection[int] = (0,),
) -> tuple[int, list[GraphSpectrum], list[Picture]]:
    """Gather the spectra of every pair, image by image.

    Args:
        items: name, batch of one, and taps of each image.
        drawn: places in ``items`` of those whose eigenvectors are kept.

    Returns:
        The number of images, the spectra, and what is to be drawn.

    Raises:
        UsageError: no image at all, or none with two valid nodes.
        ShapeError, RecipeError: a grid that is too small, or taps whose nodes differ.
        TrainingFailed: features that are not finite.
    """
    sums: dict[tuple[str, str], _Means] = {}
    seen: list[Picture] = []
    count = 0
    for name, batch, taps in items:
        rows: list[EigenMaps] = []
        for pair in pairs:
            grid = pair.grid(*batch.images.shape[-2:])
            valid = node_validity(batch, grid)
            if int(valid.sum()) < 2:
                continue
            modes: dict[str, Modes] = {}
            for role, tap in pair.taps.items():
                graph = _graph(role, tap, taps[role][tap.name], grid, valid, name)
                modes[role] = graph.modes()
                reach = _distance(tap, taps[role][tap.name], grid, valid)
                sums.setdefault((pair.name, role), _Means(grid)).add(graph, modes[role], reach)
            rows += _eigen_maps(pair, modes, valid, grid) if count in drawn else []
        if rows:
            image = batch.images if batch.teacher_images is None else batch.teacher_images
            seen.append(
                Picture(
                    name,
                    (image[0] * 255).round().byte().permute(1, 2, 0).cpu(),
                    batch.valid[0].cpu(),
                    rows,
                )
            )
        count += 1
    if not sums:
        what = (
            "no image has two nodes that are not void" if count else "there is no image to look at"
        )
        raise UsageError(what, tip="a larger --limit, or another --split")
    by_role = {subject.role: subject.name for subject in subjects}
    return (
        count,
        [
            _result(pair, role, by_role[role], sums)
            for pair in pairs
            for role in pair.taps
            if (pair.name, role) in sums
        ],
        seen,
    )


def _graph(role: str, tap: Tap, x: Tensor, grid: Grid, valid: Tensor, image: str) -> Graph:
    if not bool(torch.isfinite(x).all()):
        raise TrainingFailed(
            f"{role} {tap.name}: features of the image {image} are not finite",
            tip="a checkpoint from before it diverged",
        )
    return GraphSide(tap)(x, grid, valid).mean()


def _distance(tap: Tap, x: Tensor, grid: Grid, valid: Tensor) -> Tensor:
    """One number, or none; void nodes neither look nor are looked at."""
    if tap.kind != "graph":
        return x.new_empty(0)
    both = valid[:, None, :, None] & valid[:, None, None, :]
    return attention_distance(x * both, grid, tap.stride).mean()[None].cpu()


def _result(
    pair: Pair, role: str, model: str, sums: Mapping[tuple[str, str], _Means]
) -> GraphSpectrum:
    of = sums[pair.name, role]
    lists = {name: of.mean(name) for name in ("eigenvalues", "shares", "laplacian")}
    numbers = {name: of.mean(name)[0] for name in ("nodes", "effective_rank")}
    distance = next(iter(of.mean("distance")), None)
    return GraphSpectrum(
        pair.name, role, model, pair.taps[role].name, of.grid, **numbers, **lists, distance=distance
    )


def _eigen_maps(
    pair: Pair, modes: Mapping[str, Modes], valid: Tensor, grid: Grid
) -> list[EigenMaps]:
    """The teacher's leading eigenvectors, and the student's that are most like them; or those of the only one there is."""
    leading: Tensor | None = None
    rows = []
    for role in sorted(modes, reverse=True):  # the teacher first
        kept = int(modes[role].kept.sum())
        vectors, likeness = modes[role].vectors[0, 0, :, :kept], None
        if leading is None:
            numbers = list(range(min(SHOWN, kept)))
            leading = vectors = vectors[:, numbers] * torch.where(
                vectors[:, numbers].pow(3).sum(0) < 0, -1.0, 1.0
            )
        else:
            cosines = leading.mT @ vectors[:, : 2 * SHOWN]
            numbers = _closest(cosines.abs())
            signed = cosines[range(len(numbers)), numbers]
            likeness = signed.abs().tolist()
            vectors = vectors[:, numbers] * torch.where(signed < 0, -1.0, 1.0)
        part = shares(modes[role].values)[0, 0, numbers].tolist()
        maps = vectors.masked_fill(~valid[0, :, None], torch.nan).mT.unflatten(1, grid).cpu()
        rows.append(
            EigenMaps(
                pair.name,
                role,
                pair.taps[role].name,
                [number + 1 for number in numbers],
                part,
                likeness,
                maps,
            )
        )
    return rows


def _closest(likeness: Tensor) -> list[int]:
    """For each row in turn the largest column that is still free."""
    free, chosen = likeness.clone(), []
    for row in range(min(likeness.shape)):
        chosen.append(int(free[row].argmax()))
        free[:, chosen[-1]] = -1.0
    return chosen
