"""Groups of recipe keys that the graph losses share.

:func:`freqkd_cli.registry.flattened` makes the fields of these dataclasses arguments of each loss.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from freqkd_cli.errors import RecipeError
from freqkd_cli.features.graphs import GraphSide, Projection, Proxy
from freqkd_cli.recipe.value_types import Count, Positive, PositiveShare
from freqkd_cli.spectral.assignment import By, Heads
from freqkd_cli.spectral.graph import GramKind, Kernel, LaplacianKind, laplacian
from freqkd_cli.spectral.graph_forms import Graph
from freqkd_cli.spectral.modes import Modes, Rank, Scaling, low_rank, scaled, signed

log = logging.getLogger(__name__)

Width = Annotated[int, Field(ge=1, le=32)]
Numbers = list[Annotated[int, Field(ge=0, le=10**9)]]


@dataclass(frozen=True)
class Edges:
    """How relations become edges and edges a Laplacian.

    Attributes:
        kernel: exp is exp((cos - 1) / tau), relu sets negative relations to 0.
        tau: temperature of kernel exp.
        laplacian: normalized is I - D^-1/2 A D^-1/2, combinatorial D - A.
    """

    kernel: Kernel = "exp"
    tau: Positive = 0.1
    laplacian: LaplacianKind = "normalized"

    def of(self, graph: Graph) -> Tensor:
        """Return the edges of a graph, ``[B, heads, N, N]``."""
        return graph.edges(self.kernel, self.tau)

    def matrix(self, graph: Graph) -> Tensor:
        """Return the Laplacian of a graph, ``[B, heads, N, N]``."""
        return laplacian(self.of(graph), self.laplacian)


@dataclass(frozen=True)
class TeacherHeads:
    """Which of the teacher's heads are compared; their graphs are averaged.

    Attributes:
        heads: all, those that separate objects best, or a list of numbers from 0.
        object_heads: number of heads of each image for heads: object.
        object_by: how these heads are chosen.
    """

    heads: Literal["mean_graph", "object"] | Numbers = "mean_graph"
    object_heads: Count = 2
    object_by: By = "labels"

    def choice(self) -> Heads:
        """Return these keys as the arithmetic takes them."""
        heads = self.heads if isinstance(self.heads, str) else tuple(self.heads)
        return Heads(heads, self.object_heads, self.object_by)


@dataclass(frozen=True)
class StudentGraph:
    """How the graphs are made, see :class:`freqkd_cli.features.graphs.GraphSide`.

    ``gram`` counts for both sides, the others for the student's.

    Attributes:
        graph: kind of the student's graph; the default is that of its tap.
        gram: centred compares cosines of centred features, raw plain products.
        groups: groups of channels, or heads of query_key, that are heads of the student.
        width: channels of a head of query_key.
        projection: one projection for queries and keys, or one each.
    """

    graph: Proxy | None = None
    gram: GramKind = "centred"
    groups: Count = 1
    width: Width = 32
    projection: Projection = "shared"


@dataclass(frozen=True)
class LowRank:
    """The teacher's strongest modes, scaled.

    Attributes:
        scaling: of the eigenvalues; power amplifies large ones and damps small ones.
        power: exponent of scaling: power.
        rank: number of modes, by their energy or always 10.
        energy: share of the spectrum's magnitude that the kept modes hold.
    """

    scaling: Scaling = "cass"
    power: Positive = 2.0
    rank: Rank = "energy"
    energy: PositiveShare = 0.95

    def __post_init__(self) -> None:
        if self.scaling != "power" and self.power != LowRank.power:
            _warn_of_power(self.power, self.scaling)

    @property
    def fixed(self) -> bool:
        """Whether the number of modes does not depend on k."""
        return self.rank == "cass_fixed_10"

    def columns(self, k: int) -> int:
        """Return the largest number of modes that are kept."""
        return 10 if self.fixed else k

    def modes(self, graph: Graph, k: int) -> tuple[Modes, dict[str, Tensor]]:
        """Return the strongest modes with vectors of unit norm, and the mode that the graph lost.

        That one is ``perron`` ``[B, heads, N]``, of attention alone.
        """
        perron, modes = graph.split()
        modes = low_rank(modes, k, rank=self.rank, energy=self.energy)
        lost = {} if perron is None else {"perron": perron}
        return Modes(modes.values, signed(modes.vectors), modes.kept), lost

    def phi(self, modes: Modes) -> Tensor:
        """Return the scaled eigenvalues of the modes, ``[B, heads, k]``."""
        return scaled(modes.values, modes.kept, self.scaling, power=self.power)


@cache
def _warn_of_power(power: float, scaling: Scaling) -> None:
    """Log once for each pair of values, since a recipe is built several times."""
    log.warning("power: %g has no effect with scaling: %s; use scaling: power", power, scaling)


def check_kernel(gram: GramKind, kernel: Kernel, *sides: GraphSide) -> None:
    """
    Raises:
        RecipeError: an exponential of products of features, which may have any size; it is made
            for cosines.
    """
    if gram == "raw" and kernel == "exp" and not all(side.dense for side in sides):
        raise RecipeError(
            "kernel: exp is for cosines, and gram: raw holds products of any size",
            got="gram: raw with kernel: exp",
            need="gram: centred, or kernel: relu",
            key="kernel",
        )


def check_same_rule(student: GraphSide, teacher: GraphSide) -> None:
    """
    Raises:
        RecipeError: the edges of one side come from the kernel and those of the other are attention
            as it is, so the distance would depend on ``tau`` and not only on the graphs.
    """
    if student.dense != teacher.dense:
        attention, features = (student, teacher) if student.dense else (teacher, student)
        raise RecipeError(
            f"the Laplacians of {student.tap.name!r} and {teacher.tap.name!r} have different edges",
            got=f"attention ({attention.tap.name}) and a kernel of cosines ({features.tap.name})",
            need="attention on both sides, or features or keys on both",
            tip="keys of the teacher (keys4), or graph: query_key with projection: separate"
            if teacher.dense
            else "attention of the teacher (attention4), or features of the student",
            key="teacher",
        )
