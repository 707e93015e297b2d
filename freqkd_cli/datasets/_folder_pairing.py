"""Pair the images of one folder with masks: by the rules of names, or by ``data.mask``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from mimetypes import guess_type
from pathlib import Path
from typing import NamedTuple

from freqkd_cli.datasets._folder_closest import closest
from freqkd_cli.datasets._folder_errors import ambiguous, neither, several_places, unpaired
from freqkd_cli.datasets._folder_files import LOSSLESS, File, Tree
from freqkd_cli.datasets._folder_match import matches
from freqkd_cli.datasets._folder_names import names_derived, names_mask
from freqkd_cli.datasets._folder_partial import MaskKeys, images_with_masks
from freqkd_cli.datasets._folder_pattern import NO_MASKS, by_pattern, pattern_folder
from freqkd_cli.datasets._folder_places import Place, mask_places, partner_of
from freqkd_cli.datasets._folder_unlabelled import check_unlabelled
from freqkd_cli.errors import DataMissing, some
from freqkd_cli.images.pairs import IMAGE_SUFFIXES, Pair, same_stem
from freqkd_cli.images.stored_labels import LABEL_SUFFIXES

log = logging.getLogger(__name__)

_PHOTO = (".jpg", ".jpeg")

Paired = tuple[Sequence[File], Sequence[File | None]]
"""Images and the mask of each, None where it has none."""


def pair_place(
    tree: Tree, place: Place, keys: MaskKeys, listed: Sequence[File] | None = None
) -> list[Pair]:
    """Return the images of a folder with their masks; without masks all labels are None.

    Args:
        keys: with ``partial`` some labels may be None.
        listed: the images of a list file, instead of all in the folder.

    Raises:
        DataMissing: there are no images.
        DataBroken: images without a mask, or several pairings that fit.
    """
    images = tree.find(place.path, IMAGE_SUFFIXES) if listed is None else list(listed)
    if not images:
        raise _no_images(place.path)
    if listed is None:
        _warn_of_subfolders(tree, place)
    mask = keys.pattern
    if mask == NO_MASKS:
        return _pairs(images, None)
    if mask is not None and (folder := pattern_folder(tree, place, mask)):
        return _pairs(*_in_folder(tree, place, images, folder, keys))
    if mask is not None:
        whole = listed is None
        return _pairs(*by_pattern(tree, place, images, mask, whole=whole, partial=keys.partial))
    files = _paired_by_rule(tree, place, images, listed is not None, keys.partial)
    if files is None and keys.unlabelled != "all":
        check_unlabelled(tree, place, images)
        empty = [one.path for group in mask_places(tree, place) for one in group if one.split]
        if empty and place.split:
            raise unpaired(place, empty[0], images, [], closest(images, []))
    return _pairs(*(files or (images, None)))


def _paired_by_rule(
    tree: Tree, place: Place, images: Sequence[File], listed: bool, partial: bool
) -> Paired | None:
    """Return the images and their masks, None where no file looks like a mask of them.

    Raises:
        DataBroken: some or all images lack a mask, or several pairings fit.
    """
    attempts: list[Attempt] = []
    for group in mask_places(tree, place):
        tried = [Attempt(one.path, images, tree.find(one.path, LABEL_SUFFIXES)) for one in group]
        tried = [attempt for attempt in tried if attempt.masks]
        if masks := _single(tree, place, tried):
            return images, masks
        # Masks in the folder made for them are never passed over.
        if tried and group[0].path == partner_of(tree.root, place):
            return _best(tree, place, tried, partial)
        # One folder for all splits need not have masks for the test split.
        optional = place.split == "test" and not group[0].split
        attempts += [one for one in tried if not optional or closest(images, one.masks).paired]
    below = Attempt(place.path, images, tree.find(place.path, LABEL_SUFFIXES, masks=True))
    beside = [Attempt(place.path, *parts) for parts in _beside(tree, place, images, listed)]
    for attempt in (below, *beside):
        if attempt.masks and (masks := _single(tree, place, [attempt])):
            return attempt.images, masks
    attempts += [attempt for attempt in (below, *beside) if attempt.masks]
    return _best(tree, place, attempts, partial) if attempts else None


def _in_folder(
    tree: Tree, place: Place, images: Sequence[File], folder: Path, keys: MaskKeys
) -> Paired:
    """Return the images, and their masks in the folder that ``data.mask`` names.

    Raises:
        DataBroken: some or all images have no mask there, or several pairings fit.
    """
    attempt = Attempt(folder, images, tree.find(folder, LABEL_SUFFIXES))
    fits = matches(images, attempt.masks)
    if len(fits) > 1:
        base = keys.pattern
        below = [replace(fit, pattern=fit.pattern and f"{base}{fit.pattern}") for fit in fits]
        raise ambiguous(place, folder, images, below)
    if not fits:
        return _best(tree, place, [attempt], keys.partial)
    return images, fits[0].masks


class Attempt(NamedTuple):
    """Images and the masks that may belong to them."""

    folder: Path
    images: Sequence[File]
    masks: Sequence[File]


def _single(tree: Tree, place: Place, attempts: Sequence[Attempt]) -> tuple[File, ...] | None:
    """Return the masks of the only pairing that fits, None where none does.

    Raises:
        DataBroken: several fit.
    """
    fits = {one.folder: matches(one.images, one.masks) for one in attempts}
    fits = {folder: fit for folder, fit in fits.items() if fit}
    if len(fits) > 1:
        raise several_places(tree.root, place, fits)
    for folder, fit in fits.items():
        if len(fit) > 1:
            raise ambiguous(place, folder, attempts[0].images, fit)
        log.debug("the masks of %s are in %s", place.path, folder)
        return fit[0].masks
    return None


def _best(tree: Tree, place: Place, attempts: Sequence[Attempt], partial: bool) -> Paired:
    """Return the images and masks of the attempt that pairs the most, with ``partial``.

    Raises:
        DataBroken: no image has a mask, or ``partial`` is not set.
    """
    if partial:
        parts = [(images_with_masks(one.images, one.masks), one) for one in attempts]
        labelled, (folder, images, masks) = max(parts, key=lambda part: len(part[0]))
        if labelled and (fit := _single(tree, place, [Attempt(folder, labelled, masks)])):
            mask_of = dict(zip(labelled, fit, strict=True))
            return images, [mask_of.get(image) for image in images]
    rated = [(closest(one.images, one.masks), one) for one in attempts]
    rule, attempt = max(rated, key=lambda entry: entry[0].paired)
    raise unpaired(place, *attempt, rule)


def _beside(
    tree: Tree, place: Place, images: Sequence[File], listed: bool
) -> list[tuple[list[File], list[File]]]:
    """Return how the files of one folder may divide into images and masks: none, or one way."""
    files = tree.find(place.path, LABEL_SUFFIXES)
    if listed:
        chosen = {file.path for file in images}
        rest = [file for file in files if file.path not in chosen]
        fits = bool(rest) and closest(images, rest).paired > 0
        return [(list(images), rest)] if fits else []
    names = {(file.folder, file.name) for file in images}
    for masks in (
        [file for file in files if (file.folder, file.stem) in names],
        [file for file in files if names_mask(file.stem)],
    ):
        rest = _without(images, masks)
        plain = [file for file in rest if not names_derived(file.stem)]
        if plain and masks and matches(plain, masks):
            _warn_of_others(place, _without(rest, plain))
            return [(plain, masks)]
        if rest and masks and (closest(rest, masks).paired or 4 * len(masks) >= len(rest)):
            return [(rest, masks)]
    photos = [file for file in images if file.suffix.lower() in _PHOTO]
    others = [file for file in files if file.suffix.lower() in (*LOSSLESS, ".gif")]
    if not photos or not others or 2 * closest(photos, others).paired < len(photos):
        return []
    fits = matches(photos, others)
    left = _without(_without([*images, *files], photos), fits[0].masks if fits else [])
    plain = [file for file in left if not names_derived(file.stem)]
    if len(fits) == 1 and plain:
        raise neither(place, plain)
    _warn_of_others(place, left if len(fits) == 1 else [])
    return [(photos, others)]


def _without(files: Sequence[File], removed: Sequence[File]) -> list[File]:
    names = set(removed)
    return [file for file in dict.fromkeys(files) if file not in names]


def _warn_of_others(place: Place, files: Sequence[File]) -> None:
    if files:
        names = some(file.name for file in files)
        log.warning("%d files in %s are neither image nor mask: %s", len(files), place.path, names)


def _warn_of_subfolders(tree: Tree, place: Place) -> None:
    if files := tree.passed_over(place.path, IMAGE_SUFFIXES):
        log.warning(
            "%d images in subfolders of %s are not used, because it has images itself: %s. To use "
            "them all, move those images into a subfolder too",
            len(files),
            place.path,
            some(f"{file.folder}{file.name}" for file in files),
        )


def _pairs(
    images: Sequence[File], masks: Sequence[File | None] | Sequence[Path | None] | None
) -> list[Pair]:
    paths = [None] * len(images) if masks is None else [getattr(m, "path", m) for m in masks]
    first: dict[str, File] = {}
    for image in images:
        if image.title in first:
            raise same_stem(image.base, first[image.title].name, image.name)
        first[image.title] = image
    return [Pair(image.title, image.path, path) for image, path in zip(images, paths, strict=True)]


def _no_images(folder: Path) -> DataMissing:
    """Return the error for a folder without images, with the formats of the files that it has."""
    names = sorted(p.name for p in folder.rglob("*") if p.is_file() and p.suffix)
    suffixes = sorted({Path(name).suffix for name in names if not _is_text(name)})
    convert = f"magick mogrify -format png '{folder}/*{suffixes[0]}'" if suffixes else None
    return DataMissing(
        f"no images in {folder}",
        got=f"files of formats that are not supported as images: {some(names)}" if names else None,
        need="files ending in " + " ".join(IMAGE_SUFFIXES),
        tip=f"convert them, for example with ImageMagick: {convert}" if convert else None,
    )


def _is_text(name: str) -> bool:
    """Return whether a file is no image of any format, by its suffix."""
    kind = guess_type(name)[0] or ""
    return kind.startswith(("text/", "application/")) and kind != "application/dicom"
