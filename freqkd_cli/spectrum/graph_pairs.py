"""Which taps' graphs are compared: stage by stage, student with teacher, on the same nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from freqkd_cli.errors import ShapeError, UsageError
from freqkd_cli.features.graphs import node_grid
from freqkd_cli.features.loss import Grid
from freqkd_cli.features.taps import Tap
from freqkd_cli.registry import did_you_mean
from freqkd_cli.spectrum.subjects import Subject

MOST_NODES = 1024
"""Maps of more cells are pooled by 2 until they have at most this many."""


@dataclass(frozen=True)
class GraphPair:
    """One line of the comparison: role -> the tap of its graph, student before teacher."""

    name: str
    taps: Mapping[str, Tap]

    def grid(self, height: int, width: int) -> Grid:
        """Return the cells that are nodes, in images of this size.

        Raises:
            RecipeError: the two taps cannot have the same nodes.
            ShapeError: there are fewer than 2 x 2 nodes.
        """
        taps = list(self.taps.values())
        first, last = taps[0], taps[-1]
        rows, columns = node_grid(first, first.grid(height, width), last, last.grid(height, width))
        if min(rows, columns) < 2:
            raise ShapeError(
                f"{self.name}: the grid is too small for a graph",
                got=f"{rows} x {columns} nodes of an image of {height} x {width}",
                need="2 x 2",
                tip="use larger images, or an earlier stage",
            )
        while rows * columns > MOST_NODES and all(_is_map(tap) for tap in taps):
            rows, columns = -(-rows // 2), -(-columns // 2)
        return rows, columns


def choose_pairs(
    subjects: Sequence[Subject], stages: Sequence[int], names: Sequence[str]
) -> list[GraphPair]:
    """Return the pairs of the named stages and taps; the four stages where nothing is named.

    Stage N is the teacher's ``keysN`` (``stageN`` where it has no keys) and the student's
    ``stageN``. A named tap is read on every side that has it. A side without it uses its stage of
    the number that the name ends in.

    Raises:
        UsageError: a stage or a tap that no subject has, or one that exists in training only.
    """
    numbers = stages or (() if names else (1, 2, 3, 4))
    sides = {f"stage{n}": {s.role: _stage(s, n) for s in subjects} for n in numbers}
    sides |= {name: _named(subjects, name) for name in names}
    pairs = [
        GraphPair(name, {role: tap for role, tap in taps.items() if tap})
        for name, taps in sides.items()
    ]
    missing = [pair.name for pair in pairs if not pair.taps]
    if missing and (stages or names or len(missing) == len(pairs)):
        taps = {tap for subject in subjects for tap in subject.taps.values()}
        known = sorted({tap.name for tap in taps if tap.kind != "auxiliary"})
        raise UsageError(
            f"no model here has a graph at {missing[0]!r}{did_you_mean(missing[0], known)}",
            need=f"one of {', '.join(known)}",
            key="tap",
        )
    return [pair for pair in pairs if pair.taps]


def _stage(subject: Subject, number: int, partner: Tap | None = None) -> Tap | None:
    """Return a subject's tap of a stage, if possible one with the nodes of its partner."""
    names = [f"keys{number}", f"stage{number}"] if subject.role == "teacher" else [f"stage{number}"]
    taps = [subject.taps[name] for name in names if name in subject.taps]
    fitting = (tap for tap in taps if partner is None or _share_nodes(tap, partner))
    return next(fitting, taps[0] if taps else None)


def _named(subjects: Sequence[Subject], name: str) -> dict[str, Tap | None]:
    own = {
        subject.role: subject.taps[name]
        for subject in subjects
        if name in subject.taps and subject.taps[name].kind != "auxiliary"
    }
    if not own or name[-1] not in "1234":
        return dict(own)
    partner = next(iter(own.values()))
    return {
        subject.role: own.get(subject.role) or _stage(subject, int(name[-1]), partner)
        for subject in subjects
    }


def _share_nodes(a: Tap, b: Tap) -> bool:
    """Whether two taps have the same nodes, or the finer one is a map that can be pooled."""
    finer = a if a.stride < b.stride else b
    return a.stride == b.stride or _is_map(finer)


def _is_map(tap: Tap) -> bool:
    return tap.kind in ("features", "logits")
