"""Which taps' graphs are looked at together: stage by stage, the student's with the teacher's, on the same nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from freqkd_cli.errors import ShapeError, UsageError
from freqkd_cli.features.graphs import node_grid
from freqkd_cli.features.loss import Grid
from freqkd_cli.features.taps import Tap
from freqkd_cli.registry import did_you_mean
from freqkd_cli.spectrum.radial import Subject

MOST_NODES = 1024
"""Maps of more cells are pooled by 2 until they have no more."""


@dataclass(frozen=True)
class Pair:
    """One line of the comparison: role -> the tap that its graph is made of, student before teacher."""

    name: str
    taps: Mapping[str, Tap]

    def grid(self, height: int, width: int) -> Grid:
        """The cells that are nodes, in images of this size.

        Raises:
            RecipeError: the nodes of the two cannot be the same.
            ShapeError: there are fewer than 2 x 2.
        """
        taps = list(self.taps.values())
        rows, columns = node_grid(
            taps[0], taps[0].grid(height, width), taps[-1], taps[-1].grid(height, width)
        )
        if min(rows, columns) < 2:
            got = f"{rows} x {columns} nodes of an image of {height} x {width}"
            raise ShapeError(
                f"{self.name}: the grid is too small for a graph",
                got=got,
                need="2 x 2",
                tip="larger images, or an earlier stage",
            )
        while rows * columns > MOST_NODES and all(_is_map(tap) for tap in taps):
            rows, columns = -(-rows // 2), -(-columns // 2)
        return rows, columns


def choose_pairs(
    subjects: Sequence[Subject], stages: Sequence[int], names: Sequence[str]
) -> list[Pair]:
    """What is compared with what; the four stages where nothing was named.

    Stage N is the teacher's ``keysN`` (``stageN`` where it has no keys) and the student's ``stageN``. A named tap is read on every side
    that has it; a side without one brings its stage of the number that the name ends in.

    Raises:
        UsageError: a stage or a tap that nobody has, or one that exists in training alone.
    """
    pairs = {
        f"stage{n}": {s.role: _stage(s, n) for s in subjects}
        for n in stages or (() if names else (1, 2, 3, 4))
    }
    pairs |= {name: _named(subjects, name) for name in names}
    found = [
        Pair(name, {role: tap for role, tap in taps.items() if tap}) for name, taps in pairs.items()
    ]
    known = sorted(
        {
            name
            for subject in subjects
            for name, tap in subject.taps.items()
            if tap.kind != "auxiliary"
        }
    )
    missing = [pair.name for pair in found if not pair.taps]
    if missing and (stages or names or len(missing) == len(found)):
        raise UsageError(
            f"no model here has a graph at {missing[0]!r}{did_you_mean(missing[0], known)}",
            need=f"one of {', '.join(known)}",
        )
    return [pair for pair in found if pair.taps]


def _stage(subject: Subject, number: int, beside: Tap | None = None) -> Tap | None:
    names = [f"keys{number}", f"stage{number}"] if subject.role == "teacher" else [f"stage{number}"]
    taps = [subject.taps[name] for name in names if name in subject.taps]
    return next(
        (tap for tap in taps if beside is None or _share_nodes(tap, beside)),
        taps[0] if taps else None,
    )


def _named(subjects: Sequence[Subject], name: str) -> dict[str, Tap | None]:
    own = {
        subject.role: subject.taps[name]
        for subject in subjects
        if name in subject.taps and subject.taps[name].kind != "auxiliary"
    }
    if not own or name[-1] not in "1234":
        return dict(own)
    beside = next(iter(own.values()))
    return {
        subject.role: own.get(subject.role) or _stage(subject, int(name[-1]), beside)
        for subject in subjects
    }


def _share_nodes(a: Tap, b: Tap) -> bool:
    return (
        a.stride == b.stride
        or (_is_map(a) and a.stride < b.stride)
        or (_is_map(b) and b.stride < a.stride)
    )


def _is_map(tap: Tap) -> bool:
    return tap.kind in ("features", "logits")
