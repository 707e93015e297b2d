"""Label images that cannot be read as the recipe says, and splits that contradict it."""

from __future__ import annotations

from freqkd_cli.doctor.finding import Finding, finding_about
from freqkd_cli.doctor.survey import Survey, spread
from freqkd_cli.errors import DataBroken
from freqkd_cli.images.file_dataset import FileDataset
from freqkd_cli.images.label_advice import BLACK_AND_WHITE, Doubt
from freqkd_cli.images.pairs import some
from freqkd_cli.images.stored_labels import NEED
from freqkd_cli.views.labels import IGNORE

PROOF = 1000
"""Label images read at most to find one that removes a doubt."""


def broken(survey: Survey) -> Finding | None:
    if not survey.broken:
        return None
    first, *more = survey.broken
    rest = f" (and {len(more)} more file{'s' * (len(more) > 1)})" if more else ""
    return Finding("error", first.what, (), f"{first.got}{rest}", first.need, first.tip)


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
    return finding_about(
        dataset,
        "error",
        survey.colored,
        one="is not a label image",
        many="contain RGB colors",
        got=f"the color{'s' * (len(frequent) != 1)} {some(frequent, 6)}",
        need=NEED,
        tip=dataset.advice.for_colors(shown_colors(survey)),
    )


def rejected_values(dataset: FileDataset, survey: Survey) -> Finding | None:
    if not survey.rejected:
        return None
    rule = dataset.rule
    if rule.colors is not None:
        entries = (f'"#{color:06x}": ID' for color in survey.rejected_values)
        tip = f"{rule.tip}: {some(entries, 6)}"
    else:
        two = set(survey.values) == BLACK_AND_WHITE
        doubt = _doubt(dataset, survey) if two else None
        tip = doubt.tip if doubt else dataset.advice.for_values(survey.values, rule)
    return finding_about(
        dataset,
        "error",
        survey.rejected,
        one="contains label values that belong to no class",
        many="contain label values that belong to no class",
        got=rule.format(survey.rejected_values),
        need=rule.need,
        tip=tip,
    )


def contradicted(dataset: FileDataset, survey: Survey) -> Finding | None:
    """Return the finding of a split in which 255 is read as void but is probably a class."""
    doubt = _doubt(dataset, survey) if not survey.rejected else None
    if doubt is None:
        return None
    pixels = zip(dataset.classes, survey.pixels.tolist(), strict=True)
    empty = [name for name, count in pixels if not count]
    return finding_about(
        dataset,
        "error",
        range(len(dataset)),
        one=doubt.what.replace("contain", "contains", 1),
        many=doubt.what,
        got=f"255 read as void, and no pixel of {some(empty)}",
        tip=doubt.tip,
    )


def _doubt(dataset: FileDataset, survey: Survey) -> Doubt | None:
    """Return the first doubt about 255 that no label image removes.

    Masks that contain only 255 are void and raise none.
    """
    values = set(survey.values)
    if dataset.rule.colors is not None or survey.colored:
        return None
    if IGNORE not in values or len(values) < 2:
        return None
    for doubt in dataset.advice.doubts:
        if not doubt.proof & values and not _contains_any(dataset, doubt.proof):
            return doubt
    return None


def _contains_any(dataset: FileDataset, values: frozenset[int]) -> bool:
    """Return whether one of at most :data:`PROOF` label images contains one of these values.

    True as well where one cannot be read: reading it reports that error.
    """
    for index in spread(len(dataset), PROOF):
        try:
            if values & dataset.mask(index).values.keys():
                return True
        except DataBroken:
            return True
    return False


def shown_colors(survey: Survey) -> dict[int, int]:
    """Return the colors that the label images would show if read as colors, with their pixels.

    A color of a palette counts as one pixel.
    """
    greys = {
        0x010101 * value: pixels for value, pixels in survey.values.items() if 0 <= value <= 255
    }
    palettes = {color: 1 for palette in survey.palettes.values() for color in palette.values()}
    return ({} if survey.palettes else greys) | palettes | dict(survey.colors)
