"""Label images that can be read, but probably mean something else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from freqkd_cli.doctor.finding import Finding, finding_about
from freqkd_cli.doctor.label_errors import shown_colors
from freqkd_cli.doctor.survey import Survey
from freqkd_cli.errors import some
from freqkd_cli.images.file_dataset import FileDataset
from freqkd_cli.images.label_rules import LabelRule

_DOMINANT = 4
"""A class covers the ground if no other has this many times its pixels there."""


def void(dataset: FileDataset, survey: Survey) -> Finding | None:
    if not survey.void:
        return None
    tip = "ignore this if intended: they add nothing to label losses and scores"
    if len(survey.void) == survey.read:
        tip = (
            "check what their values mean (data.ignore, data.label_map): "
            "label losses and scores have no pixel to use"
        )
    return finding_about(
        dataset,
        "warning",
        survey.void,
        one="has no pixel of any class",
        many=f"of {survey.read} have no pixel of any class",
        tip=tip,
    )


def absent(dataset: FileDataset, survey: Survey) -> Finding | None:
    """Return the finding of classes that occur in no label image of the train split."""
    names = [
        name
        for name, pixels in zip(dataset.classes, survey.pixels.tolist(), strict=True)
        if not pixels
    ]
    if dataset.identity.get("split") != "train" or not names or len(names) == len(dataset.classes):
        return None
    one = len(names) == 1
    void = survey.void_pixels / max(survey.void_pixels + int(survey.pixels.sum()), 1)
    more = "; freqkd data RECIPE --all reads every label image"
    return Finding(
        "warning",
        f"{len(names)} class{'' if one else 'es'} without a pixel in the "
        f"{survey.read} label images examined: {some(names, 6)}",
        (),
        f"{void:.1%} of the pixels are void" if void else None,
        None,
        f"{'it' if one else 'they'} cannot be learned: check data.classes and what the values of "
        f"the masks mean{more if survey.read < len(dataset) else ''}",
    )


def palettes(dataset: FileDataset, survey: Survey) -> Finding | None:
    """Return the finding of palettes that differ from file to file, or are those of GIF files.

    Tools write them that reduce colors to the fewest indices.
    """
    first: dict[int, tuple[int, int]] = {}
    for index, palette in survey.palettes.items():
        for value, color in palette.items():
            known, other = first.setdefault(color, (value, index))
            if known == value or other == index:
                continue
            if survey.palettes[other].get(value, color) != color:
                got = f"#{color:06x} is index {known} in one and {value} in the other"
                many = "have different palettes, but palette indices are what is read"
                return _palette(dataset, survey, (other, index), many, got)
    gif = [k for k in survey.palettes if str(dataset.pairs[k].label).lower().endswith(".gif")]
    if not gif:
        return None
    colors = (f"{value} is #{color:06x}" for value, color in survey.palettes[gif[0]].items())
    many = "are GIF files with a palette, whose order programs choose; the indices are read"
    return _palette(dataset, survey, gif, many, some(colors, 6))


def _palette(
    dataset: FileDataset, survey: Survey, indices: Sequence[int], many: str, got: str
) -> Finding:
    tip = dataset.advice.for_colors(shown_colors(survey))
    return finding_about(
        dataset,
        "warning",
        indices,
        one=many.replace("are GIF files", "is a GIF file").replace("have", "has", 1),
        many=many,
        got=got,
        tip=f"if the colors define the classes, {tip}",
    )


def ground(dataset: FileDataset, survey: Survey) -> Finding | None:
    """Return the finding of a street that is not at the bottom of the images.

    The ids are shifted by one, or belong to another form of the data set.
    """
    advice = dataset.advice
    if advice.ground is None or not survey.ground or survey.rejected:
        return None
    if covers_ground(dataset, survey, dataset.rule):
        return None
    options = [
        variant.option
        for variant in advice.variants
        if variant.rule.colors is None
        and variant.rule.allows(survey.values)
        and covers_ground(dataset, survey, variant.rule)
    ]
    counts = _ground_by_class(dataset, survey, dataset.rule)
    name = dataset.classes[advice.ground]
    return Finding(
        "warning",
        f"most pixels at the bottom of the images are not {name}",
        (),
        dataset.classes[max(counts, key=lambda number: counts[number])],
        name,
        ", or ".join(options) or "look at the masks: freqkd data RECIPE --image masks.png",
    )


def _ground_by_class(dataset: FileDataset, survey: Survey, rule: LabelRule) -> dict[int, int]:
    counts = dict.fromkeys(range(len(dataset.classes)), 0)
    for value, pixels in survey.ground.items():
        number = int(rule.ids(np.array([value]))[0])
        if number in counts:
            counts[number] += pixels
    return counts


def covers_ground(dataset: FileDataset, survey: Survey, rule: LabelRule) -> bool:
    counts = _ground_by_class(dataset, survey, rule)
    return _DOMINANT * counts[dataset.advice.ground] >= max(counts.values()) > 0
