"""Whether images without masks are unlabelled, or their labels lie there in another form."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from freqkd_cli.datasets._folder_closest import closest
from freqkd_cli.datasets._folder_errors import folder_pattern, option
from freqkd_cli.datasets._folder_files import File, Tree
from freqkd_cli.datasets._folder_match import matches
from freqkd_cli.datasets._folder_names import names_images, role
from freqkd_cli.datasets._folder_places import Place, innermost, places
from freqkd_cli.errors import DataBroken
from freqkd_cli.images.stored_labels import LABEL_SUFFIXES

_EXPORT = "export masks as PNG from the labelling tool"
_DRAW = "draw them as PNG masks"
_FORMATS = {
    ".json": ("JSON, such as polygons", _EXPORT),
    ".geojson": ("GeoJSON polygons", _DRAW),
    ".xml": ("XML, such as polygons or boxes", _EXPORT),
    ".txt": ("text, such as YOLO polygons or boxes", _DRAW),
    ".npy": ("NumPy arrays", "save each array as a PNG with Image.fromarray of Pillow"),
    ".npz": ("NumPy arrays", "save each array as a PNG with Image.fromarray of Pillow"),
    ".mat": ("MATLAB files", "save each array as a PNG"),
    ".nii": ("NIfTI volumes", "save each slice as a PNG"),
    ".gz": ("compressed files", "unpack them"),
    ".zip": ("a ZIP archive", "unpack it"),
    ".svg": ("SVG drawings", _EXPORT),
}
_WITHOUT = f"{option('none')} to use the images without labels"
_OTHER_FOLDERS = 64
"""Folders beside the images that are compared with them; a data set rarely has more."""
_PREDICTIONS = "legend.json"
"""Lies in a folder of predictions of this program, which are no labels."""


def check_unlabelled(tree: Tree, place: Place, images: Sequence[File]) -> None:
    """Refuse images without masks where labels of another form or name exist.

    Raises:
        DataBroken: a folder for masks holds other files, the images have label files beside them,
            or another folder holds files of the same names.
    """
    for folder in _mask_folders(tree, place):
        suffixes = {Path(name).suffix.lower() for name in tree.files(folder)}
        for suffix in sorted(suffixes & {*_FORMATS}):
            raise _format_error(place, folder, suffix)
    if suffix := _beside(tree, images):
        raise _format_error(place, images[0].base, suffix)
    _check_others(tree, place, images)


def _mask_folders(tree: Tree, place: Place) -> Iterable[Path]:
    """Return the folders of masks for the split, with one level of subfolders."""
    mask_places = [one for one in places(tree) if one.kind == "mask"]
    own = [one for one in mask_places if one.split == place.split]
    divided = {one.path.parent for one in mask_places if one.split}
    for one in own or [one for one in mask_places if one.path not in divided and not one.split]:
        yield one.path
        yield from (one.path / name for name in tree.folders(one.path)[:_OTHER_FOLDERS])


def _format_error(place: Place, folder: Path, suffix: str) -> DataBroken:
    content, tip = _FORMATS[suffix]
    return DataBroken(
        f"the labels of {place.path} are not masks",
        got=f"{content} (*{suffix}) in {folder}",
        need="an image per mask, ending in " + " ".join(LABEL_SUFFIXES),
        tip=f"{tip}, or {_WITHOUT}",
        key="mask",
    )


def _beside(tree: Tree, images: Sequence[File]) -> str:
    """Return the suffix of label files beside most images, the empty string where there are none.

    Files of other programs, such as captions, count only if they hold labels.
    """
    counts = dict.fromkeys(_FORMATS, 0)
    example: dict[str, Path] = {}
    for folder in dict.fromkeys(image.folder for image in images):
        base = images[0].base / folder
        for name in tree.files(base):
            if "_annotations" in name and name.endswith(".json"):
                return ".json"
    for image in images:
        files = tree.files(image.base / image.folder)
        for suffix in _FORMATS:
            if f"{image.stem}{suffix}" in files:
                counts[suffix] += 1
                example.setdefault(suffix, image.path.with_name(f"{image.stem}{suffix}"))
    for suffix, count in counts.items():
        if 2 * count >= len(images) and count and _holds_labels(example[suffix]):
            return suffix
    return ""


def _holds_labels(path: Path) -> bool:
    if path.suffix not in (".txt", ".json", ".xml"):
        return True
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            start = "".join(itertools.islice(file, 40))[:4000]
    except OSError:
        return False
    if path.suffix == ".json":
        return '"shapes"' in start or '"objects"' in start or '"annotations"' in start
    if path.suffix == ".xml":
        return "<annotation" in start
    words = start.split()
    return len(words) >= 5 and all(_is_number(word) for word in words)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _check_others(tree: Tree, place: Place, images: Sequence[File]) -> None:
    """
    Raises:
        DataBroken: a folder holds files of the images' names, so they may be masks.
    """
    own_below = {image.path.parent for image in images}
    for folder in _other_folders(tree, place):
        if folder in own_below:
            continue
        files = tree.find(folder, LABEL_SUFFIXES)
        if not files or _PREDICTIONS in tree.files(folder):
            continue
        fits = matches(images, files)
        if not fits and 2 * closest(images, files).paired < len(images):
            continue
        pattern = folder_pattern(tree.root, folder, place)
        use = f"{option(pattern)} if these are the masks, or " if fits else ""
        raise DataBroken(
            f"the images in {place.path} have no folder of masks",
            got=f"files of the same names in {folder}, such as {files[0].name}",
            need=f"{tree.root / 'masks'}, or a key that names the masks",
            tip=f"{use}{_WITHOUT}",
            key="mask",
        )


def _other_folders(tree: Tree, place: Place) -> list[Path]:
    """Return the folders in which masks of unusual names would lie, without those of images."""
    root, own = tree.root, place.path
    parents = {root, own.parent} - {root.parent}
    near = [parent / name for parent in sorted(parents) for name in tree.folders(parent)]
    near += [own / name for name in tree.folders(own)] if own != root else []
    candidates = []
    for folder in near[:_OTHER_FOLDERS]:
        here = role(folder.name)
        other = here.kind or here.split not in (None, place.split) or names_images(folder.name)
        if other or folder in (own, *own.parents):
            continue
        candidates.append(folder)
        for name in tree.folders(folder):
            inner = role(name)
            if not inner.kind and (inner.split == place.split or name == own.name):
                candidates.append(folder / name)
    return [one.path for one in innermost(Place(path, None, None) for path in candidates)]
