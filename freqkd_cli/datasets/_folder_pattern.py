"""``data.mask``: the name of a mask as a pattern of its image's name."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from freqkd_cli.datasets._folder_errors import unmatched
from freqkd_cli.datasets._folder_files import LOSSLESS, File, Tree
from freqkd_cli.datasets._folder_match import FORMS
from freqkd_cli.datasets._folder_names import role
from freqkd_cli.datasets._folder_places import Place, mask_places
from freqkd_cli.errors import UsageError
from freqkd_cli.images.stored_labels import LABEL_SUFFIXES

NO_MASKS = "none"
"""The value of ``data.mask`` for images that are to be used without labels."""

_PLACEHOLDERS = ("stem", "name", "folder", "split")
_NEED = 'a name with {stem} or {name}, such as "{stem}_mask.png", or none for images without masks'


def check_pattern(pattern: str | None) -> None:
    """Check a value of ``data.mask``.

    Raises:
        UsageError: it leads out of the root, or is not the same kind of name for every image.
    """
    if pattern is None or pattern == NO_MASKS:
        return
    names = re.findall(r"\{([^{}]*)\}", pattern)
    unknown = [name for name in names if name not in _PLACEHOLDERS]
    parts = pattern.replace("\\", "/").split("/")
    rest = re.sub(r"\{[^{}]*\}", "", pattern.removesuffix(".*"))
    problem = ""
    if ".." in parts or parts[0] in ("", "~") or ":" in parts[0]:
        problem = "leads out of the data set's folder"
    elif unknown or {"{", "}"} & {*rest}:
        problem = "has a placeholder that is not stem, name, folder or split"
    elif not {"stem", "name", "folder"} & {*names} and not pattern.endswith("/"):
        problem = "names the same file for every image"
    elif "*" in rest:
        problem = "has a * that does not stand for the suffix alone"
    if problem:
        raise UsageError(f"data.mask {problem}", got=pattern, need=_NEED, key="mask")


def pattern_folder(tree: Tree, place: Place, pattern: str) -> Path | None:
    """Return the folder that a pattern with ``/`` at its end names, None for other patterns."""
    if not pattern.endswith("/"):
        return None
    return tree.root / target_name(place, File(tree.root, "", "", "", ""), pattern)


def by_pattern(
    tree: Tree,
    place: Place,
    images: Sequence[File],
    pattern: str,
    *,
    whole: bool,
    partial: bool = False,
) -> tuple[list[File], list[Path | None]]:
    """Return the images and the masks that a pattern names.

    The pattern is relative to the folder of the masks, else to the root, else to the folder of
    the images. The first of them that has all the masks is used.

    Args:
        whole: files that are masks of other files are no images.
        partial: images may lack a mask, whose place is None then.

    Raises:
        DataBroken: no folder has all the masks.
    """
    folders = [one.path for group in mask_places(tree, place) for one in group]
    best: tuple[int, Path, list[File], list[Path | None]] | None = None
    for base in dict.fromkeys((*folders, tree.root, place.path)):
        masks = [_mask(tree, base, place, image, pattern) for image in images]
        kept = list(zip(images, masks, strict=True))
        if whole:
            targets = {str(mask) for mask in masks if mask is not None}
            kept = [pair for pair in kept if str(pair[0].path) not in targets]
        paired = sum(mask is not None for _, mask in kept)
        if kept and (best is None or paired > best[0]):
            best = (paired, base, [image for image, _ in kept], [mask for _, mask in kept])
        if best and best[0] == len(best[2]):
            break
    _, base, kept_images, kept_masks = best or (0, place.path, list(images), [None] * len(images))
    complete = [mask for mask in kept_masks if mask is not None]
    needed = len(complete) if partial and complete else len(kept_images)
    if len(set(complete)) < needed:
        absent = [
            target_name(place, image, pattern)
            for image, mask in zip(kept_images, kept_masks, strict=True)
            if mask is None
        ]
        raise unmatched(place, base, kept_images, absent, pattern)
    return kept_images, kept_masks


def target_name(place: Place, image: File, pattern: str) -> str:
    """Return the pattern with the names of an image."""
    words = [word for word in (place.path.name, place.path.parent.name) if role(word).split]
    split = words[0] if words else place.split or ""
    values = {"stem": image.stem, "name": image.name, "split": split, "folder": image.folder[:-1]}
    text = re.sub(r"\{(\w+)\}", lambda match: values[match[1]], pattern.replace("\\", "/"))
    return text.lstrip("/")


def _mask(tree: Tree, base: Path, place: Place, image: File, pattern: str) -> Path | None:
    """Return the file that the pattern names, by equal letters, else without letter case."""
    folder, _, name = target_name(place, image, pattern).rpartition("/")
    if name in tree.files(base / folder):
        return base / folder / name
    any_suffix = pattern.endswith(".*")
    for form in FORMS[:3]:
        files = tree.indexed(base / folder, (form, any_suffix), _index)
        match = files.get(form(name.removesuffix(".*") if any_suffix else name))
        if match is not None:
            return base / folder / match
    return None


def _index(names: Sequence[str], form: tuple) -> dict[str, str | None]:
    """Return the compared name -> file name, None where two files have it."""
    compared, any_suffix = form
    table: dict[str, str | None] = {}
    for name in sorted(names, key=lambda name: not name.lower().endswith(LOSSLESS)):
        stem, suffix = os.path.splitext(name)
        if any_suffix and suffix.lower() not in LABEL_SUFFIXES:
            continue
        key = compared(stem if any_suffix else name)
        lossless = suffix.lower() in LOSSLESS
        if key not in table:
            table[key] = name
        elif lossless:
            table[key] = None
    return table
