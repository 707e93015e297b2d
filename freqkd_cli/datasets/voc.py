"""Pascal VOC 2012, 20 classes of objects and background, in the layout of VOCdevkit.

Label images are palette PNGs. ``train_list: trainaug`` reads the 10,582 images that are usual for
training: their list ``trainaug.txt`` (or ``train_aug.txt``; stems, or ``image label`` pairs) with
the label images of ``SegmentationClassAug``. The test split has no labels: its ``test.txt`` is part
of the package of the test images.

Source: Everingham et al., "The Pascal Visual Object Classes Challenge: A Retrospective", IJCV 2015.
Augmented labels: Hariharan et al., "Semantic Contours from Inverse Detectors", ICCV 2011.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from freqkd_cli.errors import DataBroken, DataMissing
from freqkd_cli.images.dataset import Dataset, Split
from freqkd_cli.images.file_dataset import FileDataset
from freqkd_cli.images.label_advice import Advice, Variant, two_classes
from freqkd_cli.images.label_rules import LabelRule, color_rule, label_rule
from freqkd_cli.images.pairs import (
    IMAGE_SUFFIXES,
    Pair,
    by_stem,
    check_list,
    inside,
    lines_of,
    no_split,
    some,
)
from freqkd_cli.images.stored_labels import LABEL_SUFFIXES, pack
from freqkd_cli.views.labels import IGNORE

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
LAYOUT = (
    "JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/{train,val,trainval}.txt, "
    "in VOC2012 or in the folder that contains VOC2012 or VOCdevkit/VOC2012"
)
_TIP = "the label images as published"
_NESTED = ("", "VOC2012", "VOCdevkit/VOC2012")

TrainList = Literal["train", "trainval", "trainaug"]
Labels = Literal["index", "colors"]


def color(index: int) -> tuple[int, int, int]:
    """Return the challenge's color of a palette index.

    The bits of the index, three at a time from the lowest, are the leading bits of red, green and
    blue.
    """
    return tuple(
        sum((index >> (3 * k + channel) & 1) << (7 - k) for k in range(3)) for channel in range(3)
    )


PALETTE = np.array([color(index) for index in range(len(CLASSES))], dtype=np.uint8)
BORDER = (224, 224, 192)
"""Color of the void between objects, index 255."""


def build(
    *,
    split: Split,
    root: Path | None,
    size: tuple[int, int],
    train_list: TrainList = "train",
    labels: Labels = "index",
) -> Dataset:
    """Return one split of Pascal VOC 2012.

    Images keep their own size; ``size`` is that of the views.

    Args:
        train_list: the train split: train; trainval, which leaves no val split; or trainaug, with
            SegmentationClassAug.
        labels: index as published (palette or grey), or colors if a tool converted the palette to
            RGB.

    Raises:
        DataMissing: no root, no such list, or none of the listed images exists.
        DataBroken: a list that cannot be parsed or whose files are incomplete; when reading: a
            damaged file or labels outside the classes.
    """
    home = _home(Path(root)) if root is not None else None
    listing = _listing(home, split, train_list) if home else None
    if home is None or listing is None:
        raise no_split("voc", split, Path(root) if root is not None else None, LAYOUT)
    augmented = split == "train" and train_list == "trainaug"
    folder = "SegmentationClassAug" if augmented else "SegmentationClass"
    pairs = _listed(home, listing, None if split == "test" else folder)
    if augmented:
        _check_apart(home, listing, pairs)
    arguments = {"train_list": train_list, "labels": labels}
    identity = {"name": "voc", "split": split, "arguments": arguments}
    rule, advice = _rule_and_advice(labels)
    return FileDataset(identity, pairs, CLASSES, PALETTE.copy(), rule, advice)


def classes(*, root: Path | None = None) -> tuple[str, ...]:
    """Return the 21 names; no data is needed."""
    return CLASSES


def _rule_and_advice(labels: Labels) -> tuple[LabelRule, Advice]:
    rules = _rules()
    others = tuple(
        Variant((f"data.labels={name}",), where, rule, usual=True)
        for name, (where, rule) in rules.items()
        if name != labels
    )
    return rules[labels][1], Advice(others, doubts=(two_classes(_TIP),))


def _rules() -> dict[str, tuple[str, LabelRule]]:
    """Return data.labels -> (condition under which it is right, how labels are read)."""
    colors = {pack(rgb): number for number, rgb in enumerate(PALETTE)} | {pack(BORDER): IGNORE}
    tip = f"use {_TIP}"
    return {
        "index": (
            "they are palette indices or grey values",
            label_rule(range(len(CLASSES)), [IGNORE], tip),
        ),
        "colors": ("they are the colors of VOC's palette", color_rule(colors, tip)),
    }


def _home(root: Path) -> Path | None:
    """Return the folder that holds the lists: the root, or VOC2012 below it."""
    return next(
        (
            root / below
            for below in _NESTED
            if (root / below / "ImageSets" / "Segmentation").is_dir()
        ),
        None,
    )


def _listing(home: Path, split: Split, train_list: TrainList) -> Path | None:
    """Return the list of a split, None where there is none.

    Raises:
        DataMissing: ``train_list`` excludes the split or needs a list that is missing.
    """
    if split == "val" and train_list == "trainval":
        raise DataMissing(
            "data.train_list: trainval trains on the images of val, so there is no val split",
            tip="--set data.train_list=train for a score on val",
            key="train_list",
        )
    names: tuple[str, ...] = (split,)
    if split == "train":
        names = {"trainaug": ("trainaug", "train_aug")}.get(train_list, (train_list,))
    files = [home / "ImageSets" / "Segmentation" / f"{name}.txt" for name in names]
    listing = next((file for file in files if file.is_file()), None)
    if listing is None and split == "train" and train_list == "trainaug":
        raise DataMissing(
            f"no list trainaug.txt in {files[0].parent}",
            need="ImageSets/Segmentation/trainaug.txt and SegmentationClassAug/ "
            "from the augmented labels",
            tip="--set data.train_list=train",
            key="train_list",
        )
    return listing


def _listed(home: Path, listing: Path, folder: str | None) -> list[Pair]:
    pairs = []
    for where, words in lines_of(listing):
        if len(words) > 2 or (len(words) == 1 and {*"/\\"} & {*words[0]}):
            raise DataBroken(
                f"{where} is neither a stem nor an image and a label",
                got=" ".join(words)[:80],
                need="2007_000032, or two paths without spaces in their names",
            )
        pairs.append((where, _pair(home, words, where, folder)))
    return check_list(listing, pairs, LAYOUT)


def _pair(home: Path, words: list[str], where: str, folder: str | None) -> Pair:
    """Return the files of one line: a stem, or the paths of image and label."""
    label = None
    if len(words) == 2:
        image = inside(home, words[0], where)
        if folder is not None:
            label = inside(home, words[1], where)
    else:
        image = _file(home / "JPEGImages", words[0], IMAGE_SUFFIXES)
        if folder is not None:
            label = _file(home / folder, words[0], LABEL_SUFFIXES)
    return Pair(image.stem, image, label)


def _check_apart(home: Path, listing: Path, pairs: list[Pair]) -> None:
    """Refuse a list of augmented labels that contains images of val, as some published ones do."""
    held_out = home / "ImageSets" / "Segmentation" / "val.txt"
    kept = {Path(words[0]).stem for _, words in lines_of(held_out)} if held_out.is_file() else set()
    both = [pair.stem for pair in pairs if pair.stem in kept]
    if both:
        raise DataBroken(
            f"{len(both)} images of {listing} are in {held_out.name} too",
            got=some(both),
            need="a list without the images that are scored",
        )


def _file(folder: Path, stem: str, suffixes: tuple[str, ...]) -> Path:
    """Return the file of this stem; the name with the first suffix where there is none."""
    return by_stem(folder, stem, suffixes) or folder / f"{stem}{suffixes[0]}"
