"""Your own images: image and mask files of equal stems in folders, or images without masks.

A mask holds one class id per pixel, as grey value or palette index, in the size of its upright
image (EXIF orientation applied). Without a folder of masks the split is unlabelled: a student can
still learn from the teacher on it.

Class names come from the recipe (``data.classes: [road, car]``, ids 0, 1, ...), else from
``classes.json`` (a list, or ``{id: name}`` with any ids) or ``classes.txt`` (one name per line) in
the root folder. Masks with other values are read with ``zero_label``, ``ignore`` or ``label_map``,
so that no file has to be converted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from freqkd_cli.datasets._folder_classes import NAMES_NEED, class_names
from freqkd_cli.datasets._folder_labels import Ignore, LabelKeys, LabelMap, rule_of, values_of
from freqkd_cli.datasets._label_mends import advice_of
from freqkd_cli.datasets._single_class import single_class
from freqkd_cli.errors import DataBroken, DataMissing
from freqkd_cli.images.dataset import SPLITS, Dataset, Split
from freqkd_cli.images.file_dataset import FileDataset
from freqkd_cli.images.pairs import ROOT_TIP, contents, pair_by_stem
from freqkd_cli.images.palette import palette_with

LAYOUT = (
    "images/{train,val,test} and masks/{train,val,test}, "
    "or {train,val,test}/images and {train,val,test}/masks"
)

Color = Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=3, max_length=3)]
Colors = dict[str, Color] | list[Color]


def build(
    *,
    split: Split,
    root: Path | None,
    size: tuple[int, int],
    classes: list[str] | None = None,
    ignore: Ignore | None = None,
    zero_label: Literal["keep", "void"] = "keep",
    label_map: LabelMap | None = None,
    threshold: float | None = None,
    scale: Annotated[float, Field(gt=0)] | None = None,
    colors: Colors | None = None,
) -> Dataset:
    """Return one split of a folder. Images keep their own size; ``size`` is that of the views.

    Args:
        classes: names of the ids 0, 1, ...; default from a file in the root folder.
        ignore: a mask value, or a list of them, that no loss and no score counts, in addition to
            255.
        zero_label: void if 0 in a mask means void and the classes count from 1; keep if 0 is the
            first class.
        label_map: mask value -> class id, or 255 for void, for values that are not the ids, such
            as {255: 1}; a key may be a range, {"128-255": 1}. With colors as keys,
            {"#804080": 0, "#000000": 255}, masks are read as colors, and every color must be
            listed.
        threshold: of two classes, values from here on are the second one, such as 128 for masks
            that were saved as JPEG, or 0.5 for probabilities.
        scale: the classes are stored as multiples of this, such as 85 for 0, 85, 170 and 255.
        colors: class name -> [R, G, B], such as {road: [128, 64, 128]}, or a list with one color
            per class. Only for drawing; labels do not change.

    Raises:
        DataMissing: no root, no such split, no images, or masks without class names.
        DataBroken: class names that cannot be read, images without a mask; when reading: a
            damaged file, a mask of another size, or mask values outside the classes.
        UsageError: one class beside masks, an ignored value that is a class as well, or a map to
            an id that is no class.
    """
    root = _root(root)
    images, masks = _folders(root, split)
    names = class_names(root, classes)
    if masks is not None and not names:
        raise DataMissing(
            f"no class names for the masks in {masks}", need=NAMES_NEED, key="classes"
        )
    ids = sorted(names)
    ordered = [names[number] for number in ids]
    keys = LabelKeys(
        ids,
        values_of(ignore),
        zero_label,
        dict(label_map or {}),
        threshold,
        scale,
        tuple(ordered),
    )
    pairs = pair_by_stem(images, masks)
    if masks is not None and len(names) == 1:
        raise single_class(keys, [pair.label for pair in pairs if pair.label is not None])
    arguments: dict[str, Any] = {"classes": ordered, "ids": keys.ids, "ignore": keys.ignored}
    arguments |= {"zero_label": zero_label} if zero_label != "keep" else {}
    arguments |= {"label_map": dict(sorted(label_map.items()))} if label_map else {}
    arguments |= {"threshold": threshold} if threshold is not None else {}
    arguments |= {"scale": scale} if scale is not None else {}
    rule = rule_of(keys)
    return FileDataset(
        {"name": "folder", "split": split, "arguments": arguments},
        pairs,
        ordered,
        palette_with(colors, ordered),
        rule,
        advice_of(keys, rule),
    )


def classes(*, root: Path | None = None, classes: list[str] | None = None) -> tuple[str, ...]:
    """Return class names from the recipe or the root; empty where neither has any.

    No names are needed for images without masks.

    Raises:
        DataMissing: the names are not in the recipe, and there is no root.
    """
    if classes is None and not _root(root).is_dir():
        raise DataMissing(f"there is no folder {root}", need=LAYOUT, tip=ROOT_TIP, key="root")
    names = class_names(_root(root) if classes is None else Path(), classes)
    return tuple(names[number] for number in sorted(names))


def palette_of(names: Sequence[str], colors: Colors | None = None) -> np.ndarray:
    """Return ``[K, 3]`` uint8: the colors of these classes without reading any file."""
    return palette_with(colors, names)


def _root(root: Path | None) -> Path:
    if root is None:
        raise DataMissing(
            "the data set 'folder' needs the folder of your images",
            need=LAYOUT,
            tip=ROOT_TIP,
            key="root",
        )
    return Path(root)


def _folders(root: Path, split: str) -> tuple[Path, Path | None]:
    """Return the folders of the images and of the masks, the latter None where there is none.

    Raises:
        DataMissing: there are no images of the split.
        DataBroken: the masks are not in a folder.
    """
    for images, masks in (
        (root / "images" / split, root / "masks" / split),
        (root / split / "images", root / split / "masks"),
    ):
        if images.is_dir():
            return images, _mask_folder(masks)
    present = [
        name
        for name in SPLITS
        if (root / "images" / name).is_dir() or (root / name / "images").is_dir()
    ]
    raise DataMissing(
        f"no split {split!r} in {root}",
        got=f"only {', '.join(present)}" if present else contents(root),
        need=LAYOUT,
        tip=ROOT_TIP,
        key="root",
    )


def _mask_folder(path: Path) -> Path | None:
    """Return the folder of the masks, None where there is none: the split has no labels.

    Raises:
        DataBroken: it is a file or a broken link, which does not mean "no labels".
    """
    if path.is_dir():
        return path
    broken = next((p for p in (path, path.parent) if p.is_symlink() and not p.exists()), None)
    if broken is not None or path.exists():
        raise DataBroken(
            f"{broken or path} is not a folder",
            got="a broken link" if broken else "a file",
            need="a folder of masks, or nothing for images without labels",
        )
    return None
