"""Messages of ``folder`` where images and masks cannot be paired."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from freqkd_cli.datasets._folder_closest import Closest, loose_pattern
from freqkd_cli.datasets._folder_files import LOSSLESS, File
from freqkd_cli.datasets._folder_match import Match
from freqkd_cli.datasets._folder_places import Place
from freqkd_cli.errors import DataBroken, some
from freqkd_cli.images.pairs import same_stem
from freqkd_cli.images.stored_labels import LABEL_SUFFIXES

_NEED = (
    "one mask per image: of the same stem, with one constant prefix or suffix (p1_mask), "
    f"or named after the whole file (p1.jpg.png); ending in {' '.join(LABEL_SUFFIXES)}"
)


POOL = "--set 'data.unlabelled=pool'"
"""The change of a recipe by which images may lack a mask."""


def option(pattern: str) -> str:
    """Return the change of the recipe that pairs by a pattern, to be pasted."""
    quoted = pattern if pattern == "none" else '"{}"'.format(pattern.replace('"', '\\"'))
    return "--set 'data.mask={}'".format(quoted.replace("'", "'\\''"))


def unpaired(
    place: Place, folder: Path, images: Sequence[File], masks: Sequence[File], rule: Closest
) -> DataBroken:
    """Return the error of images without a mask; it shows names of both sides."""
    if twice := _twice(images, ()) or _twice(masks, LOSSLESS):
        return twice
    number = len(images) - rule.paired
    if rule.paired or not masks:
        got = f"no {some(rule.missing)} in {folder}"
        tip = "add the masks, or remove these images from the split"
        if rule.paired:
            tip = f"add the masks, or {POOL} to use these images without labels"
    else:
        got = f"{_names(images)} beside {_names(masks)} in {folder}"
        tip = "rename the masks, or write the pattern of their names in data.mask"
        if pattern := loose_pattern(images, masks):
            tip = f"{option(pattern)} if {masks[0].name} is the mask of {images[0].name}"
    return DataBroken(
        f"{number} of {len(images)} images in {place.path} have no mask",
        got=got,
        need=_NEED,
        tip=tip,
        key="mask",
    )


def unmatched(
    place: Place, base: Path, images: Sequence[File], absent: Sequence[str], pattern: str
) -> DataBroken:
    """Return the error of a pattern that does not name a mask of its own for each image."""
    got = f"no {some(absent)} in {base}" if absent else "one mask for several images"
    return DataBroken(
        f"data.mask does not fit {len(absent) or len(images)} of {len(images)} images "
        f"in {place.path}",
        got=got,
        need=f"a file for each image, named by {pattern}",
        tip="correct data.mask, or remove it to pair by the names alone"
        + (f", or {POOL} to use these images without labels" if absent else ""),
        key="mask",
    )


def ambiguous(
    place: Place, folder: Path, images: Sequence[File], fits: Sequence[Match]
) -> DataBroken:
    """Return the error of images that have several masks each."""
    names = [match.masks[0].name for match in fits]
    options = [
        f"{option(match.pattern)} if {match.masks[0].name} is the mask"
        for match in fits
        if match.pattern
    ]
    return DataBroken(
        f"the images in {place.path} have several masks each",
        got=f"{some(names)} in {folder} for {images[0].name}",
        need="one mask per image",
        tip=", or ".join(options[:4]) or "keep one kind of masks in this folder",
        key="mask",
    )


def neither(place: Place, files: Sequence[File]) -> DataBroken:
    """Return the error of files beside images and masks that are not clearly one of them."""
    return DataBroken(
        f"{len(files)} files in {place.path} are neither a mask nor an image with a mask",
        got=_names(files),
        need="images and one mask for each",
        tip="move these files to another folder",
        key="mask",
    )


def several_places(root: Path, place: Place, fits: Iterable[Path]) -> DataBroken:
    """Return the error of masks in two folders that both fit."""
    options = [
        f"{option(folder_pattern(root, path, place))} if the masks are in {path.relative_to(root)}"
        for path in fits
        if root in path.parents
    ]
    return DataBroken(
        f"two folders hold masks for the images in {place.path}",
        got=some(str(path) for path in fits),
        need="one folder of masks",
        tip=", or ".join(options[:4]) or "remove or rename one of them",
        key="mask",
    )


def folder_pattern(root: Path, folder: Path, place: Place) -> str:
    """Return the value of ``data.mask`` that names a folder of masks in the root."""
    own = (place.path.name, place.path.parent.name) if place.split else ()
    parts = folder.relative_to(root).parts
    return "".join("{split}/" if part in own else f"{part}/" for part in parts)


def _names(files: Sequence[File]) -> str:
    return some((f"{file.folder}{file.name}" for file in files), 2)


def _twice(files: Sequence[File], preferred: Sequence[str]) -> DataBroken | None:
    """Return the error of two files with one stem, None where there are none.

    Args:
        preferred: formats of which one may stand beside others.
    """
    same_name: dict[tuple[str, str, bool], list[File]] = {}
    for file in files:
        first = file.suffix.lower() in preferred
        same_name.setdefault((file.folder, file.stem, first), []).append(file)
    same = next((group for group in same_name.values() if len(group) > 1), None)
    return None if same is None else same_stem(same[0].base, same[0].name, same[1].name)
