"""What can be wrong with label images, each as a finding: the files, what was found, and the exact setting that mends it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from freqkd_cli.doctor.survey import Survey, spread
from freqkd_cli.errors import DataBroken
from freqkd_cli.images.decode import FileDataset
from freqkd_cli.images.label_values import BLACK_AND_WHITE, Doubt, LabelRule
from freqkd_cli.images.pairs import some
from freqkd_cli.views.labels import IGNORE

PROOF = 1000
"""Label images read at most to find one that clears a suspicion."""

_MUCH = 4
"""A class covers the ground if no other has this many times its pixels there."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, in the four parts of an error; ``files`` holds all the label images it was seen in."""

    level: Literal["error", "warning"]
    what: str
    files: tuple[str, ...]
    got: str | None = None
    need: str | None = None
    tip: str | None = None

    def error(self) -> DataBroken:
        return DataBroken(self.what, got=self.got, need=self.need, tip=self.tip)


def findings(dataset: FileDataset, seen: Survey) -> tuple[Finding, ...]:
    """Everything that a survey shows; errors first."""
    doubtful = _contradicted(dataset, seen)
    errors = (
        _broken(seen),
        _misfits(dataset, seen),
        _colours(dataset, seen),
        _values(dataset, seen),
        doubtful,
    )
    # What is void, and where the ground lies, says nothing where 255 itself is in doubt.
    doubts = (
        None if doubtful else _void(dataset, seen),
        _palettes(dataset, seen),
        None if doubtful else _ground(dataset, seen),
    )
    return tuple(finding for finding in (*errors, *doubts) if finding is not None)


def _finding(
    dataset: FileDataset,
    level: Literal["error", "warning"],
    indices: Iterable[int],
    one: str,
    many: str,
    **parts: Any,
) -> Finding:
    """A finding about the label images of these pictures: ``one`` and ``many`` say it of a single file and of several."""
    files = tuple(str(dataset.pairs[index].label) for index in sorted(indices))
    what = (
        f"{files[0]} {one}"
        if len(files) == 1
        else f"{len(files)} label images {many}: {some(files)}"
    )
    return Finding(level, what, files, **parts)


def _broken(seen: Survey) -> Finding | None:
    if not seen.broken:
        return None
    first, *more = seen.broken
    rest = f", and {len(more)} more file{'s' * (len(more) > 1)} like it" if more else ""
    return Finding("error", first.what, (), f"{first.got}{rest}", first.need, first.tip)


def _misfits(dataset: FileDataset, seen: Survey) -> Finding | None:
    if not seen.misfits:
        return None
    index, (size, picture) = next(iter(seen.misfits.items()))
    name = dataset.pairs[index].image.name
    turned = all(size == picture[::-1] for size, picture in seen.misfits.values())
    tip = (
        "turn them: pictures are read as their EXIF tags say"
        if turned
        else "write them again in the size of the pictures"
    )
    return _finding(
        dataset,
        "error",
        seen.misfits,
        f"does not fit its picture {name}",
        "do not fit their pictures",
        got=f"{size[0]}x{size[1]}",
        need=f"{picture[0]}x{picture[1]}",
        tip=f"{tip} (nearest neighbour, so that no value is mixed)" if not turned else tip,
    )


def _colours(dataset: FileDataset, seen: Survey) -> Finding | None:
    if not seen.coloured:
        return None
    often = [f"#{colour:06x}" for colour, _ in seen.colours.most_common()]
    return _finding(
        dataset,
        "error",
        seen.coloured,
        "is not a label image",
        "hold colours",
        got=f"several channels with the colour{'s' * (len(often) != 1)} {some(often, 6)}",
        need="one grey value or palette index per pixel",
        tip=dataset.advice.for_colours(_painted(seen)),
    )


def _values(dataset: FileDataset, seen: Survey) -> Finding | None:
    if not seen.odd:
        return None
    rule = dataset.rule
    if rule.colours is not None:
        tip = f"{_left(seen)}; {rule.tip}"
    else:
        doubt = _doubt(dataset, seen) if set(seen.seen) == BLACK_AND_WHITE else None
        tip = doubt.tip if doubt is not None else dataset.advice.for_values(seen.seen, rule)
    said = "holds label values outside the classes", "hold label values outside the classes"
    odd = {value for values in seen.odd.values() for value in values}
    return _finding(
        dataset, "error", seen.odd, *said, got=rule.spelled(odd), need=rule.need, tip=tip
    )


def _left(seen: Survey) -> str:
    """The keys that a map of colours lacks."""
    odd = sorted({value for values in seen.odd.values() for value in values})
    return "name them too: " + some((f'"#{colour:06x}": ID' for colour in odd), 6)


def _contradicted(dataset: FileDataset, seen: Survey) -> Finding | None:
    """255 taken for void where it is the thing itself, or where the masks were reduced before: told only of a whole split."""
    doubt = _doubt(dataset, seen) if not seen.odd else None
    if doubt is None:
        return None
    lost = [
        name
        for name, pixels in zip(dataset.classes, seen.pixels.tolist(), strict=True)
        if not pixels
    ]
    said = doubt.what.replace("hold", "holds", 1), doubt.what
    return _finding(
        dataset, "error", range(len(dataset)), *said, got=f"no pixel of {some(lost)}", tip=doubt.tip
    )


def _doubt(dataset: FileDataset, seen: Survey) -> Doubt | None:
    """The first doubt of 255 that nothing in the split clears; masks of 255 alone are void and raise none."""
    if (
        dataset.rule.colours is not None
        or seen.coloured
        or IGNORE not in seen.seen
        or len(seen.seen) < 2
    ):
        return None
    held = set(seen.seen)
    for doubt in dataset.advice.doubts:
        if not doubt.proof & held and not _cleared(dataset, doubt.proof):
            return doubt
    return None


def _cleared(dataset: FileDataset, proof: frozenset[int]) -> bool:
    """Whether a label image holds one of these values, of at most :data:`PROOF`; where one cannot be read, nothing is claimed."""
    for index in spread(len(dataset), PROOF):
        try:
            if proof & dataset.mask(index).values.keys():
                return True
        except DataBroken:
            return True  # told when it is read
    return False


def _void(dataset: FileDataset, seen: Survey) -> Finding | None:
    if not seen.void:
        return None
    said = "has no pixel of any class", f"have no pixel of any class, of {seen.read} read"
    tip = "leave them so where that is meant: they add nothing to label losses and scores"
    if len(seen.void) == seen.read:
        tip = "another look at what their values stand for: no label loss and no score has a pixel to go by"
    return _finding(dataset, "warning", seen.void, *said, tip=tip)


def _palettes(dataset: FileDataset, seen: Survey) -> Finding | None:
    """Palettes that each file has for itself, as a tool writes them that turns colours into the fewest indices."""
    first: dict[int, tuple[int, int]] = {}
    for index, palette in seen.palettes.items():
        for value, colour in palette.items():
            known, where = first.setdefault(colour, (value, index))
            if (
                known != value
                and where != index
                and value in seen.palettes[where]
                and seen.palettes[where][value] != colour
            ):
                return _finding(
                    dataset,
                    "warning",
                    (where, index),
                    "",
                    "give one colour two palette indices, and indices are what is read",
                    got=f"#{colour:06x} is {known} in one, {value} in the other",
                    tip=f"where the colours are meant: {dataset.advice.for_colours(_painted(seen))}",
                )
    return None


def _painted(seen: Survey) -> dict[int, int]:
    """Every colour that the label images would show if all of them were read as colours, and its pixels where they are known."""
    greys = (
        {}
        if seen.palettes
        else {0x010101 * value: pixels for value, pixels in seen.seen.items() if 0 <= value <= 255}
    )
    palettes = {colour: 1 for palette in seen.palettes.values() for colour in palette.values()}
    return greys | palettes | dict(seen.colours)


def _ground(dataset: FileDataset, seen: Survey) -> Finding | None:
    """A street that does not lie at the bottom of the pictures: ids shifted by one, or of another form of the data set."""
    advice = dataset.advice
    if advice.ground is None or not seen.ground or seen.odd or _covers(dataset, seen, dataset.rule):
        return None
    ways = [
        v
        for v in advice.variants
        if v.rule.colours is None and v.rule.takes(seen.seen) and _covers(dataset, seen, v.rule)
    ]
    tip = (
        "; or ".join(f"--set {way.setting} where {way.where}" for way in ways)
        or "a look at the masks: freqkd data RECIPE"
    )
    counts = _by_class(dataset, seen, dataset.rule)
    name = dataset.classes[advice.ground]
    return Finding(
        "warning",
        f"{name} is not what lies at the bottom of the pictures",
        (),
        dataset.classes[max(counts, key=counts.get)],
        name,
        tip,
    )


def _by_class(dataset: FileDataset, seen: Survey, rule: LabelRule) -> dict[int, int]:
    counts = dict.fromkeys(range(len(dataset.classes)), 0)
    for value, pixels in seen.ground.items():
        number = int(rule.ids(np.array([value]))[0])
        if number in counts:
            counts[number] += pixels
    return counts


def _covers(dataset: FileDataset, seen: Survey, rule: LabelRule) -> bool:
    counts = _by_class(dataset, seen, rule)
    return _MUCH * counts[dataset.advice.ground] >= max(counts.values()) > 0
