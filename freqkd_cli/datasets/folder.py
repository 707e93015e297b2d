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
from freqkd_cli.datasets._folder_labels import LabelKeys, LabelMap, advice_of, rule_of
from freqkd_cli.errors import DataBroken, DataMissing
from freqkd_cli.images.conversion import RECIPE, Conversion
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
Percentile = Annotated[
    list[Annotated[float, Field(ge=0, le=100)]], Field(min_length=2, max_length=2)
]
Bands = Annotated[list[Annotated[int, Field(ge=1, le=4)]], Field(min_length=3, max_length=3)]


def build(
    *,
    split: Split,
    root: Path | None,
    size: tuple[int, int],
    classes: list[str] | None = None,
    ignore: list[int] | None = None,
    zero_label: Literal["keep", "void"] = "keep",
    label_map: LabelMap | None = None,
    colors: Colors | None = None,
    bits: Annotated[int, Field(ge=8, le=16)] | None = None,
    percentile: Percentile | None = None,
    bands: Bands | None = None,
) -> Dataset:
    """Return one split of a folder. Images keep their own size; ``size`` is that of the views.

    Args:
        classes: names of the ids 0, 1, ...; default from a file in the root folder.
        ignore: mask values that no loss and no score counts, in addition to 255.
        zero_label: void if 0 in a mask means void and the classes count from 1; keep if 0 is the
            first class.
        label_map: mask value -> class id, or 255 for void, for values that are not the ids, such
            as {255: 1}. With colors as keys, {"#804080": 0, "#000000": 255}, masks are read as
            colors, and every color must be listed.
        colors: class name -> [R, G, B], such as {road: [128, 64, 128]}, or a list with one color
            per class. Only for drawing; labels do not change.
        bits: of images of more than 8 bits a channel, value / (2^bits - 1) becomes 0 .. 1; 12 for
            values up to 4095.
        percentile: of such images, the two percentiles of an image that become 0 and 1, such as
            [1, 99]; instead of bits.
        bands: which bands of an image are red, green and blue, counted from 1, such as [1, 2, 3].

    Raises:
        DataMissing: no root, no such split, no images, or masks without class names.
        DataBroken: class names that cannot be read, images without a mask; when reading: a
            damaged file, a mask of another size, or mask values outside the classes.
        UsageError: an ignored value that is a class as well, or a map to an id that is no class.
    """
    root = _root(root)
    images, masks = _folders(root, split)
    names = class_names(root, classes)
    if masks is not None and not names:
        raise DataMissing(
            f"no class names for the masks in {masks}", need=NAMES_NEED, key="classes"
        )
    keys = LabelKeys(sorted(names), tuple(ignore or ()), zero_label, dict(label_map or {}))
    ordered = [names[number] for number in keys.ids]
    arguments: dict[str, Any] = {"classes": ordered, "ids": keys.ids, "ignore": keys.ignored}
    arguments |= {"zero_label": zero_label} if zero_label != "keep" else {}
    arguments |= {"label_map": dict(sorted(label_map.items()))} if label_map else {}
    conversion = Conversion.of(bits, percentile, bands, RECIPE)
    arguments |= conversion.arguments()
    rule = rule_of(keys)
    return FileDataset(
        {"name": "folder", "split": split, "arguments": arguments},
        pair_by_stem(images, masks),
        ordered,
        palette_with(colors, ordered),
        rule,
        advice_of(keys, rule),
        conversion,
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
