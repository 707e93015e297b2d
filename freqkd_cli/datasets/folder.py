"""Your own images: image and mask files in folders that belong together, or images without masks.

The layout is ``images/train`` and ``masks/train``, or another that people use: ``labels``,
``annotations``, ``valid``, ``train/images``, subfolders, ``train.txt`` with the names of images,
or one folder that ``split`` divides. A mask has the name of its image, or that name with a constant
part such as ``_mask``; ``mask`` describes any other.

A mask holds one class id per pixel, as grey value or palette index, in the size of its upright
image (EXIF orientation applied). Without masks the split is unlabelled: a student can still learn
from the teacher on it. Where only some images have masks, ``unlabelled: pool`` uses both kinds.

Class names come from the recipe (``data.classes: [road, car]``, ids 0, 1, ...), else from a class
list in the root folder: ``classes.json`` (a list, or ``{id: name}`` with any ids), ``classes.txt``
(one name per line, or id and name), or the list of a labelling tool. Masks with other values are
read with ``zero_label``, ``ignore`` or ``label_map``, so that no file has to be converted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from freqkd_cli.datasets._folder_classes import NAMES_NEED, ClassList, class_list
from freqkd_cli.datasets._folder_colors import color_map
from freqkd_cli.datasets._folder_labels import Ignore, LabelKeys, LabelMap, rule_of, values_of
from freqkd_cli.datasets._folder_layout import LAYOUT, find_images, find_pairs
from freqkd_cli.datasets._folder_partial import MaskKeys
from freqkd_cli.datasets._folder_split import Shares
from freqkd_cli.datasets._label_fixes import advice_of
from freqkd_cli.datasets._label_values import Colors, covers
from freqkd_cli.datasets._single_class import single_class
from freqkd_cli.errors import DataBroken, DataMissing
from freqkd_cli.images.conversion import POOL, RECIPE, Conversion
from freqkd_cli.images.dataset import Dataset, Split
from freqkd_cli.images.file_dataset import FileDataset
from freqkd_cli.images.pairs import ROOT_TIP, Pair
from freqkd_cli.images.palette import palette_with
from freqkd_cli.recipe.value_types import Positive

__all__ = ["LAYOUT", "build", "classes", "palette_of"]

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
    ignore: Ignore | None = None,
    zero_label: Literal["keep", "void"] = "keep",
    label_map: LabelMap | None = None,
    threshold: float | None = None,
    scale: Positive | None = None,
    colors: Colors | None = None,
    bits: Annotated[int, Field(ge=8, le=16)] | None = None,
    percentile: Percentile | None = None,
    bands: Bands | None = None,
    mask: str | None = None,
    split_: Shares | None = None,
    unlabelled: Literal["refuse", "pool"] = "refuse",
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
        bits: of images of more than 8 bits a channel, value / (2^bits - 1) becomes 0 .. 1; 12 for
            values up to 4095.
        percentile: of such images, the two percentiles of an image that become 0 and 1, such as
            [1, 99]; instead of bits.
        bands: which bands of an image are red, green and blue, counted from 1, such as [1, 2, 3].
        mask: name of the mask of an image, such as "{stem}_mask.png", where the names do not show
            it. {stem} and {name} are the image's name without and with its suffix, {folder} its
            subfolder, {split} the folder of the split; the suffix may be .*. The path starts at
            the folder of the masks or at the root. A folder of the root, such as "zones/{split}/",
            holds masks of the usual names. With none the images are used without labels.
        split_: share of the images that train takes, such as 0.8, where one folder has no splits;
            the others are val. A list gives the shares of train, val and test. The hash of an
            image's name decides, so that no image changes its split when others are added.
        unlabelled: what images without a mask are where others have one. With refuse they are an
            error. With pool, losses with a teacher learn from them too, as from a data.pool; half
            of each batch, or data.pool.share of it, has no labels. In val and test they are left
            out.

    Raises:
        DataMissing: no root, no such split, no images, or masks without class names.
        DataBroken: class names that cannot be read, images without a mask; when reading: a
            damaged file, a mask of another size, or mask values outside the classes.
        UsageError: one class beside masks, an ignored value that is a class as well, or a map to
            an id that is no class.
    """
    root = _root(root)
    listed = class_list(root, classes)
    _check_folder(root, split, listed)
    pairs = find_pairs(root, split, MaskKeys(mask, unlabelled), split_)
    labels = [pair.label for pair in pairs if pair.label is not None]
    if labels and not listed.names:
        raise _no_names(labels[0].parent)
    if not label_map and threshold is None and scale is None:
        label_map = color_map(listed, pairs)
    void = (value for value in listed.ignored if not covers(label_map or {}, value))
    ignored = {*values_of(ignore), *void}
    ids = sorted(listed.names)
    names = tuple(listed.names[number] for number in ids)
    in_map = dict(label_map or {})
    keys = LabelKeys(ids, tuple(sorted(ignored)), zero_label, in_map, threshold, scale, names)
    if labels and len(ids) == 1:
        raise single_class(keys, labels)
    conversion = Conversion.of(bits, percentile, bands, RECIPE)
    arguments = keys.arguments() | conversion.arguments()
    arguments |= {"mask": mask} if mask is not None else {}
    arguments |= {"split": split_} if split_ is not None else {}
    arguments |= {"unlabelled": unlabelled} if unlabelled != "refuse" else {}
    identity = {"name": "folder", "split": split, "arguments": arguments}
    rule = rule_of(keys)
    kept = [pair for pair in pairs if pair.label is not None] or pairs
    palette = _palette(colors, listed, keys.ids)
    dataset = FileDataset(identity, kept, names, palette, rule, advice_of(keys, rule), conversion)
    if len(kept) < len(pairs):
        dataset.rest = _images_alone([pair for pair in pairs if pair.label is None], conversion)
    return dataset


def build_pool(*, root: Path | None, arguments: Mapping[str, Any]) -> Dataset:
    """Return the images of a folder without labels: those of train, or all without splits.

    Args:
        arguments: the keys of ``data.pool``; those about labels have no meaning.

    Raises:
        DataMissing: no root, or no images.
    """
    keys = ("bits", "percentile", "bands")
    conversion = Conversion.of(*(arguments.get(key) for key in keys), POOL)
    folder = _existing(root, "a folder of images, or one with a folder for each split")
    pairs = find_images(folder, arguments.get("mask"), arguments.get("split"))
    return _images_alone(pairs, conversion)


def _images_alone(pairs: Sequence[Pair], conversion: Conversion) -> FileDataset:
    identity = {"name": "folder", "split": "train", "arguments": conversion.arguments()}
    keys = LabelKeys([])
    rule = rule_of(keys)
    palette = np.zeros((0, 3), np.uint8)
    return FileDataset(identity, pairs, (), palette, rule, advice_of(keys, rule), conversion)


def classes(*, root: Path | None = None, classes: list[str] | None = None) -> tuple[str, ...]:
    """Return class names from the recipe or the root; empty where neither has any.

    No names are needed for images without masks.

    Raises:
        DataMissing: the names are not in the recipe, and there is no root.
    """
    if classes is None:
        _existing(root)
    names = class_list(_root(root) if classes is None else Path(), classes).names
    return tuple(names[number] for number in sorted(names))


def palette_of(names: Sequence[str], colors: Colors | None = None) -> np.ndarray:
    """Return ``[K, 3]`` uint8: the colors of these classes without reading any file."""
    return palette_with(colors, names)


def _root(root: Path | None, need: str = LAYOUT) -> Path:
    if root is None:
        raise DataMissing(
            "the data set 'folder' needs the folder of your images",
            need=need,
            tip=ROOT_TIP,
            key="root",
        )
    return Path(root)


def _existing(root: Path | None, need: str = LAYOUT) -> Path:
    folder = _root(root, need)
    if not folder.is_dir():
        what = f"{folder} is not a folder" if folder.exists() else f"there is no folder {folder}"
        raise DataMissing(what, need=need, tip=ROOT_TIP, key="root")
    return folder


def _palette(colors: Colors | None, listed: ClassList, ids: Sequence[int]) -> np.ndarray:
    """Return the colors of the recipe, else those of the class list, else the program's own."""
    if colors is None and set(ids) <= set(listed.colors):
        return np.array([listed.colors[number] for number in ids], np.uint8).reshape(-1, 3)
    return palette_with(colors, [listed.names[number] for number in ids])


def _check_folder(root: Path, split: str, listed: ClassList) -> None:
    """Check the usual folder of the masks before the files in it.

    Raises:
        DataMissing: there is one, but no class names.
        DataBroken: it is a file or a broken link, which does not mean "no labels".
    """
    for images, masks in (
        (root / "images" / split, root / "masks" / split),
        (root / split / "images", root / split / "masks"),
    ):
        if images.is_dir():
            if masks.is_dir():
                if not listed.names:
                    raise _no_names(masks)
                return
            broken = next(
                (p for p in (masks, masks.parent) if p.is_symlink() and not p.exists()), None
            )
            if broken is not None or masks.exists():
                raise DataBroken(
                    f"{broken or masks} is not a folder",
                    got="a broken link" if broken else "a file",
                    need="a folder of masks, or nothing for images without labels",
                )
            return


def _no_names(masks: Path) -> DataMissing:
    return DataMissing(f"no class names for the masks in {masks}", need=NAMES_NEED, key="classes")
