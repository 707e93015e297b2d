"""The result of ``freqkd spectrum --graph``: numbers of each graph, and eigenvectors to draw."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from freqkd_cli.features.loss import Grid
from freqkd_cli.runtime.files import write_csv
from freqkd_cli.spectrum.subjects import by_role

TAU = 0.1
"""Temperature of the kernel exp(cos / tau), which gives a graph of cosines a Laplacian."""


@dataclass(frozen=True)
class TapGraph:
    """The spectrum of one tap's graph, averaged over images entry by entry.

    Attributes:
        nodes: mean number of nodes that are not void.
        eigenvalues: the largest, descending; of attention without the Perron mode.
        shares: the eigenvalues over the sum of all magnitudes of their image.
        effective_rank: exp(entropy of all shares).
        laplacian: the smallest eigenvalues of the normalised Laplacian, ascending.
        distance: mean attention distance in image pixels, over heads; None for other taps.
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
        """Return the numbers of the graph."""
        return {key: value for key, value in asdict(self).items() if key not in ("stage", "role")}


@dataclass(frozen=True)
class EigenMaps:
    """The leading eigenvectors of one graph of one image.

    Attributes:
        numbers: which eigenvectors, from 1 by falling eigenvalue. A student's are those most like
            its teacher's, column by column.
        likeness: magnitude of the cosine with the teacher's eigenvector of the same column; None
            for the first role.
        maps: ``[columns, h, w]``, NaN on void nodes. The sign is that of the column's first, whose
            sum of cubes is positive.
    """

    stage: str
    role: str
    tap: str
    numbers: list[int]
    shares: list[float]
    likeness: list[float] | None
    maps: Tensor


@dataclass(frozen=True)
class GraphImage:
    """One image to draw, and the eigenvectors of its graphs, teacher before student.

    Attributes:
        image: ``[H, W, 3]`` uint8, in the frame of its view.
        valid: ``[H, W]``, which pixels are inside the image.
    """

    name: str
    image: Tensor
    valid: Tensor
    rows: list[EigenMaps]


@dataclass(frozen=True)
class GraphSpectra:
    """A :class:`TapGraph` for each pair and role, student before teacher, and images to draw."""

    source: str
    kind: str
    images: int
    graphs: list[TapGraph]
    drawn: list[GraphImage] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the document of ``freqkd spectrum --graph --json``."""
        facts = {"source": self.source, "kind": self.kind, "images": self.images, "tau": TAU}
        return facts | by_role((item.role, item.stage, item.to_json()) for item in self.graphs)

    def write_csv(self, path: Path) -> None:
        """Write one row per pair, role and place in the spectrum."""
        columns = ("eigenvalue", "share", "laplacian")
        rows: list[list[Any]] = [["stage", "role", "model", "tap", "number", *columns]]
        for item in self.graphs:
            lists = (item.eigenvalues, item.shares, item.laplacian)
            for i in range(max(map(len, lists))):
                values = [f"{numbers[i]:.9g}" if i < len(numbers) else "" for numbers in lists]
                rows.append([item.stage, item.role, item.model, item.tap, i + 1, *values])
        write_csv(path, rows)
