"""Cityscapes, 19 classes of streets in 50 cities, in the layout of leftImg8bit and gtFine.

The label images hold 34 ids, which become the 19 train ids in memory. The files
``..._labelTrainIds.png``, which the authors' scripts write, can be read instead. The labels of the
test split are not public, so it is a split without labels. The name of an image is its stem,
NAME_leftImg8bit.

Source: Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016;
ids, names and colors as in the table of the authors' cityscapesScripts (helpers/labels.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from freqkd_cli.errors import DataBroken, DataMissing
from freqkd_cli.images.dataset import Dataset, Split
from freqkd_cli.images.file_dataset import FileDataset
from freqkd_cli.images.label_advice import Advice, Variant, two_classes
from freqkd_cli.images.label_rules import LabelRule, label_rule
from freqkd_cli.images.pairs import (
    IMAGE_SUFFIXES,
    Pair,
    by_stem,
    check_stems,
    no_split,
    some,
    stems,
)
from freqkd_cli.images.stored_labels import LABEL_SUFFIXES
from freqkd_cli.views.labels import IGNORE

# In the order of the train ids: (name, id in labelIds, color).
TABLE: tuple[tuple[str, int, tuple[int, int, int]], ...] = (
    ("road", 7, (128, 64, 128)), ("sidewalk", 8, (244, 35, 232)), ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)), ("fence", 13, (190, 153, 153)), ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)), ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)), ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)), ("person", 24, (220, 20, 60)), ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)), ("truck", 27, (0, 0, 70)), ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)), ("motorcycle", 32, (0, 0, 230)), ("bicycle", 33, (119, 11, 32)),
)  # fmt: skip
CLASSES = tuple(name for name, _, _ in TABLE)
PALETTE = np.array([color for _, _, color in TABLE], dtype=np.uint8)
IDS = 34
"""Ids in labelIds: 0 .. 33."""

_CAMERA = "_leftImg8bit"
"""End of the stem of every image.

Predictions keep it: the authors' evaluation takes any name that begins with the place.
"""

LAYOUT = (
    "leftImg8bit/{train,val,test}/CITY/NAME_leftImg8bit.png "
    "and gtFine/{train,val,test}/CITY/NAME_gtFine_labelIds.png (or labelTrainIds)"
)
_TIP = "the label images of gtFine as published"
_CONDITION = {
    "labelIds": "the files hold the 34 published ids",
    "labelTrainIds": "the files hold train ids, 0 .. 18 and 255",
}


def build(
    *,
    split: Split,
    root: Path | None,
    size: tuple[int, int],
    labels: Literal["labelIds", "labelTrainIds"] = "labelIds",
) -> Dataset:
    """Return one split of Cityscapes. Images keep their own size; ``size`` is that of the views.

    Args:
        labels: which label images are read: labelIds as published, or labelTrainIds as the
            authors' scripts write them.

    Raises:
        DataMissing: no root, or no such split.
        DataBroken: images without such a label image; when reading: a damaged file or labels of
            the other kind.
    """
    root = Path(root) if root is not None else None
    if (
        root is None
        or not (root / "leftImg8bit" / split).is_dir()
        or not (split == "test" or (root / "gtFine" / split).is_dir())
    ):
        raise no_split("cityscapes", split, root, LAYOUT)
    pairs = _pairs(root, split, labels)
    rules = _rules()
    others = tuple(
        Variant((f"data.labels={name}",), _CONDITION[name], rule, usual=True)
        for name, rule in rules.items()
        if name != labels
    )
    identity = {"name": "cityscapes", "split": split, "arguments": {"labels": labels}}
    advice = Advice(others, doubts=(two_classes(_TIP),), ground=CLASSES.index("road"))
    return FileDataset(identity, pairs, CLASSES, PALETTE.copy(), rules[labels], advice)


def classes(*, root: Path | None = None) -> tuple[str, ...]:
    """Return the nineteen names; no data is needed."""
    return CLASSES


def _rules() -> dict[str, LabelRule]:
    ids, tip = [number for _, number, _ in TABLE], f"use {_TIP}"
    published = label_rule(ids, set(range(IDS)) - set(ids), tip)
    return {
        "labelIds": LabelRule(published.table, f"the ids 0 .. {IDS - 1}", tip),
        "labelTrainIds": label_rule(range(len(TABLE)), [IGNORE], tip),
    }


def _pairs(root: Path, split: Split, labels: str) -> list[Pair]:
    folder = root / "leftImg8bit" / split
    pairs = []
    for city in sorted(path for path in folder.iterdir() if path.is_dir()):
        for stem, image in stems(city, IMAGE_SUFFIXES).items():
            if stem.endswith(_CAMERA):
                label = None if split == "test" else _file(root, split, image, labels)
                pairs.append(Pair(stem, image, label))
    if not pairs:
        raise DataMissing(f"no images in {folder}", need=LAYOUT)
    unlabelled = [pair for pair in pairs if pair.label is None and split != "test"]
    if unlabelled:
        raise _missing_labels(root, split, labels, unlabelled, len(pairs))
    return check_stems(pairs)


def _label_stem(image: Path, labels: str) -> str:
    return f"{image.stem.removesuffix(_CAMERA)}_gtFine_{labels}"


def _file(root: Path, split: Split, image: Path, labels: str) -> Path | None:
    folder = root / "gtFine" / split / image.parent.name
    return by_stem(folder, _label_stem(image, labels), LABEL_SUFFIXES)


def _missing_labels(
    root: Path, split: Split, labels: str, unlabelled: list[Pair], number: int
) -> DataBroken:
    other = next(name for name in _CONDITION if name != labels)
    names = some(f"{_label_stem(pair.image, labels)}.png" for pair in unlabelled)
    folder = root / "leftImg8bit" / split
    return DataBroken(
        f"{len(unlabelled)} of {number} images in {folder} have no label image",
        got=f"no {names} in {root / 'gtFine' / split}",
        need=LAYOUT,
        tip=f"--set data.labels={other}"
        if _file(root, split, unlabelled[0].image, other)
        else "add the label images, or remove these images from the split",
        key="labels",
    )
