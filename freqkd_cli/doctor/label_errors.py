"""Label images that cannot be read as the recipe says, and splits that contradict it."""

from __future__ import annotations

from collections import Counter

from freqkd_cli.doctor.finding import Finding, finding_about, unreadable
from freqkd_cli.doctor.survey import Survey
from freqkd_cli.errors import DataBroken, some
from freqkd_cli.images.dataset import spread
from freqkd_cli.images.file_dataset import FileDataset
from freqkd_cli.images.label_advice import Doubt, color_noise
from freqkd_cli.images.label_refusal import refusal
from freqkd_cli.images.label_trial import STRAY
from freqkd_cli.images.stored_labels import NEED
from freqkd_cli.views.labels import IGNORE

PROOF = 1000
"""Label images read at most to find one that removes a doubt."""


def broken(survey: Survey) -> Finding | None:
    return unreadable(survey.broken) if survey.broken else None


def misfits(dataset: FileDataset, survey: Survey) -> Finding | None:
    if not survey.misfits:
        return None
    index, (size, image_size) = next(iter(survey.misfits.items()))
    rotated = all(size == image[::-1] for size, image in survey.misfits.values())
    tip = "save them in the size of the images, resized with nearest neighbour"
    if rotated:
        tip = "rotate the label images: images are read upright, after their EXIF orientation"
    return finding_about(
        dataset,
        "error",
        survey.misfits,
        one=f"and its image {dataset.pairs[index].image.name} differ in size",
        many="differ in size from their images",
        got=f"{size[0]}x{size[1]} (height x width)",
        need=f"{image_size[0]}x{image_size[1]}",
        tip=tip,
    )


def rgb_colors(dataset: FileDataset, survey: Survey) -> Finding | None:
    if not survey.colored:
        return None
    frequent = [f"#{color:06x}" for color, _ in survey.colors.most_common()]
    got = f"the color{'s' * (len(frequent) != 1)} {some(frequent, 6)}"
    return finding_about(
        dataset,
        "error",
        survey.colored,
        one="is not a label image",
        many="contain RGB colors",
        got=color_noise(survey.colors) or got,
        need=NEED,
        tip=dataset.advice.for_colors(shown_colors(survey)),
    )


def rejected(dataset: FileDataset, survey: Survey) -> Finding | None:
    if not survey.rejected:
        return None
    reason = refusal(survey.values, dataset.rule, dataset.advice, len(dataset.classes))
    values = {value for values in survey.rejected.values() for value in values}
    pixels, total = sum(survey.values[value] for value in values), sum(survey.values.values())
    few = f" in {pixels:,} of {total:,} pixels" if pixels < STRAY * total else ""
    doubt = _doubt(dataset, survey)
    return finding_about(
        dataset,
        "error",
        survey.rejected,
        one=reason.one,
        many=reason.many,
        got=f"{reason.got}{few}",
        need=reason.need,
        tip=(doubt and doubt.tip) or reason.tip,
    )


def bits(dataset: FileDataset, survey: Survey) -> Finding | None:
    """Return the finding of masks of 1 bit, read as 0 and 1, beside others in which 255 is void."""
    rule = dataset.rule
    void = rule.colors is None and rule.white == 1 and rule.table[IGNORE] == rule.void
    if not (void and survey.values[IGNORE] and survey.bits):
        return None
    return finding_about(
        dataset,
        "error",
        survey.bits,
        one="has 1 bit, so its 1 may mean 255",
        many="have 1 bit, so their 1 may mean 255",
        got=f"1 bit in {len(survey.bits)} of {survey.headers} masks, and 255 (void) in others",
        need="8 bits in all masks of a split",
        tip="save them with 8 bits: Image.open(FILE).convert('L').save(FILE) writes 0 and 255; "
        "where 1 is a class, add .point(lambda value: value // 255) before .save",
    )


def contradicted(dataset: FileDataset, survey: Survey) -> Finding | None:
    """Return the finding of a split in which 255 is read as void but is probably a class."""
    doubt = _doubt(dataset, survey) if not survey.rejected else None
    if doubt is None:
        return None
    void = survey.values[IGNORE]
    rare = [
        f"{pixels or 'no'} pixel{'s' * (pixels > 1)} of {name}"
        for name, pixels in zip(dataset.classes, survey.pixels.tolist(), strict=True)
        if pixels <= doubt.share * void
    ]
    tip = doubt.tip or dataset.advice.for_values(survey.values, dataset.rule)
    strays = any(survey.values[value] for value in doubt.proof)
    what = doubt.what.replace("only", "almost only") if strays else doubt.what
    beside = f" beside {void:,} pixels of 255" if strays else ""
    return finding_about(
        dataset,
        "error",
        range(len(dataset)),
        one=what.replace("contain", "contains", 1),
        many=what,
        got=f"255 read as void, and {some(rare)}{beside}",
        tip=tip if doubt.tip else f"{tip} (list 255 in data.ignore if it does mean void)",
    )


def _doubt(dataset: FileDataset, survey: Survey) -> Doubt | None:
    """Return the first doubt about 255 that no label image removes.

    Masks that contain only 255 are void and raise none.
    """
    values = survey.values
    if dataset.rule.colors is not None or survey.colored:
        return None
    if not values[IGNORE] or len(values) < 2:
        return None
    for doubt in dataset.advice.doubts:
        if not _proven(doubt, values) and not _proven_by_more(dataset, doubt):
            return doubt
    return None


def _proven(doubt: Doubt, counts: Counter[float]) -> bool:
    """Return whether the proof has enough pixels beside those of 255."""
    return sum(counts[value] for value in doubt.proof) > doubt.share * counts[IGNORE]


def _proven_by_more(dataset: FileDataset, doubt: Doubt) -> bool:
    """Return whether at most :data:`PROOF` label images remove a doubt.

    True as well where one cannot be read: reading it reports that error.
    """
    counts: Counter[float] = Counter()
    for index in spread(len(dataset), PROOF):
        try:
            counts.update(dataset.mask(index).values)
        except DataBroken:
            return True
        if not doubt.share and _proven(doubt, counts):
            return True
    return _proven(doubt, counts)


def shown_colors(survey: Survey) -> dict[int, int]:
    """Return the colors that the label images would show if read as colors, with their pixels.

    A color of a palette counts as one pixel.
    """
    greys = {
        0x010101 * int(value): pixels
        for value, pixels in survey.values.items()
        if 0 <= value <= 255
    }
    palettes = {color: 1 for palette in survey.palettes.values() for color in palette.values()}
    return ({} if survey.palettes else greys) | palettes | dict(survey.colors)
