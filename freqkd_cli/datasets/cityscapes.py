"""Cityscapes, 19 classes of streets in 50 cities, in the layout of its packages leftImg8bit and gtFine.

``leftImg8bit/{train,val,test}/CITY/NAME_leftImg8bit.png`` with ``gtFine/{train,val,test}/CITY/NAME_gtFine_labelIds.png``. The label images
hold 34 ids; they become the 19 train ids in memory, or the files ``..._labelTrainIds.png``, which the authors' scripts write, are read. The
labels of the test split are not public, so it is a split of pictures without labels. A picture's name is its stem, NAME_leftImg8bit.

Source: Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016; ids, names and colours as in the table
of the authors' cityscapesScripts (helpers/labels.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from freqkd_cli.errors import DataBroken, DataMissing
from freqkd_cli.images.dataset import Dataset, Split
from freqkd_cli.images.decode import FileDataset
from freqkd_cli.images.label_values import Advice, LabelRule, Variant, label_rule, two_classes
from freqkd_cli.images.pairs import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    Pair,
    by_stem,
    check_stems,
    no_split,
    some,
    stems,
)
from freqkd_cli.views.labels import IGNORE

# Train id by place: (name, id in labelIds, colour).
TABLE: tuple[tuple[str, int, tuple[int, int, int]], ...] = (
    ("road", 7, (128, 64, 128)), ("sidewalk", 8, (244, 35, 232)), ("building", 11, (70, 70, 70)), ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)), ("pole", 17, (153, 153, 153)), ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)), ("vegetation", 21, (107, 142, 35)), ("terrain", 22, (152, 251, 152)), ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)), ("rider", 25, (255, 0, 0)), ("car", 26, (0, 0, 142)), ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)), ("train", 31, (0, 80, 100)), ("motorcycle", 32, (0, 0, 230)), ("bicycle", 33, (119, 11, 32)),
)  # fmt: skip
CLASSES = tuple(name for name, _, _ in TABLE)
PALETTE = np.array([colour for _, _, colour in TABLE], dtype=np.uint8)
IDS = 34
"""Ids in labelIds: 0 .. 33."""

_CAMERA = "_leftImg8bit"
"""What ends the stem of every picture; predictions keep it, as the authors' evaluation takes any name that begins with the place."""

_LAYOUT = "leftImg8bit/{train,val,test}/CITY/NAME_leftImg8bit.png and gtFine/{train,val,test}/CITY/NAME_gtFine_labelIds.png (or labelTrainIds)"
_TIP = "the label images of gtFine as they were published"
_WHERE = {
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
    """One split of Cityscapes; pictures keep their own size, ``size`` is that of the views cut from them.

    Args:
        labels: which label images are read: labelIds as published, or labelTrainIds as the authors' scripts write them.

    Raises:
        DataMissing: no root, or no such split.
        DataBroken: pictures without such a label image; on reading, a damaged file or labels of the other kind.
    """
    root = Path(root) if root is not None else None
    if (
        root is None
        or not (root / "leftImg8bit" / split).is_dir()
        or not (split == "test" or (root / "gtFine" / split).is_dir())
    ):
        raise no_split("cityscapes", split, root, _LAYOUT)
    pairs = _pairs(root, split, labels)
    rules = _rules()
    others = tuple(
        Variant(f"data.labels={name}", _WHERE[name], rule)
        for name, rule in rules.items()
        if name != labels
    )
    identity = {"name": "cityscapes", "split": split, "arguments": {"labels": labels}}
    advice = Advice(others, doubts=(two_classes(_TIP),), ground=CLASSES.index("road"))
    return FileDataset(identity, pairs, CLASSES, PALETTE.copy(), rules[labels], advice)


def classes(*, root: Path | None = None) -> tuple[str, ...]:
    """The nineteen names, known without data."""
    return CLASSES


def _rules() -> dict[str, LabelRule]:
    ids = [number for _, number, _ in TABLE]
    published = label_rule(ids, set(range(IDS)) - set(ids), _TIP)
    return {
        "labelIds": LabelRule(published.table, f"the ids 0 .. {IDS - 1}", _TIP),
        "labelTrainIds": label_rule(range(len(TABLE)), [IGNORE], _TIP),
    }


def _pairs(root: Path, split: Split, labels: str) -> list[Pair]:
    pairs = []
    for city in sorted(path for path in (root / "leftImg8bit" / split).iterdir() if path.is_dir()):
        for name, image in stems(city, IMAGE_SUFFIXES).items():
            if name.endswith(_CAMERA):
                pairs.append(
                    Pair(
                        name, image, None if split == "test" else _file(root, split, image, labels)
                    )
                )
    if not pairs:
        raise DataMissing(f"no pictures in {root / 'leftImg8bit' / split}", need=_LAYOUT)
    alone = [pair for pair in pairs if pair.label is None and split != "test"]
    if alone:
        raise _unlabelled(root, split, labels, alone, len(pairs))
    return check_stems(pairs)


def _label(image: Path, labels: str) -> str:
    """The stem of a picture's label image."""
    return f"{image.stem.removesuffix(_CAMERA)}_gtFine_{labels}"


def _file(root: Path, split: Split, image: Path, labels: str) -> Path | None:
    return by_stem(
        root / "gtFine" / split / image.parent.name, _label(image, labels), LABEL_SUFFIXES
    )


def _unlabelled(
    root: Path, split: Split, labels: str, alone: list[Pair], number: int
) -> DataBroken:
    other = next(name for name in _WHERE if name != labels)
    return DataBroken(
        f"{len(alone)} of {number} pictures in {root / 'leftImg8bit' / split} have no label image in {root / 'gtFine' / split}",
        got=f"no {some(f'{_label(pair.image, labels)}.png' for pair in alone)}",
        need=_LAYOUT,
        tip=f"--set data.labels={other}" if _file(root, split, alone[0].image, other) else None,
    )
