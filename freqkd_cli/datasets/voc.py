"""Pascal VOC 2012, 20 classes of things and background, in the layout of VOCtrainval_11-May-2012.

``JPEGImages``, ``SegmentationClass`` (palette PNGs) and the lists ``ImageSets/Segmentation/{train,val,trainval}.txt``, in the folder
``VOC2012`` or in one that holds it (``VOCdevkit/VOC2012`` or above). ``train_list: trainaug`` reads the 10,582 pictures that are usual for
training: their list ``trainaug.txt`` (or ``train_aug.txt``; stems, or ``picture label`` pairs) with the label images of
``SegmentationClassAug``. A test split is one of pictures without labels: its ``test.txt`` comes with the package of the test pictures.

Source: Everingham et al., "The Pascal Visual Object Classes Challenge: A Retrospective", IJCV 2015. Augmented labels: Hariharan et al.,
"Semantic Contours from Inverse Detectors", ICCV 2011.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from freqkd_cli.errors import DataBroken, DataMissing
from freqkd_cli.images.dataset import Dataset, Split
from freqkd_cli.images.decode import FileDataset
from freqkd_cli.images.label_values import (
    Advice,
    LabelRule,
    Variant,
    colour_rule,
    label_rule,
    pack,
    two_classes,
)
from freqkd_cli.images.pairs import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    Pair,
    by_stem,
    check_list,
    inside,
    lines_of,
    no_split,
    some,
)
from freqkd_cli.views.labels import IGNORE

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_LAYOUT = "JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/{train,val,trainval}.txt, in VOCdevkit/VOC2012 or VOC2012"
_TIP = "the label images as they were published"
_NESTED = ("", "VOC2012", "VOCdevkit/VOC2012")

TrainList = Literal["train", "trainval", "trainaug"]
Labels = Literal["index", "colors"]


def colour(index: int) -> tuple[int, int, int]:
    """The challenge's colour of a palette index: its bits, three at a time from the lowest, are the leading bits of red, green and blue."""
    return tuple(
        sum((index >> (3 * k + channel) & 1) << (7 - k) for k in range(3)) for channel in range(3)
    )


PALETTE = np.array([colour(index) for index in range(len(CLASSES))], dtype=np.uint8)
BORDER = (224, 224, 192)
"""Colour of the void between things, index 255."""


def build(
    *,
    split: Split,
    root: Path | None,
    size: tuple[int, int],
    train_list: TrainList = "train",
    labels: Labels = "index",
) -> Dataset:
    """One split of Pascal VOC 2012; pictures keep their own size, ``size`` is that of the views cut from them.

    Args:
        train_list: what the train split is: train; trainval, which leaves no val split; or trainaug, with SegmentationClassAug.
        labels: index as published (palette or grey), or colors where a tool turned the palette into RGB.

    Raises:
        DataMissing: no root, no such list, or no listed picture that is there.
        DataBroken: a list that cannot be understood or whose files are not all there; on reading,
            a damaged file or labels outside the classes.
    """
    home = _home(Path(root)) if root is not None else None
    listing = _listing(home, split, train_list) if home else None
    if home is None or listing is None:
        raise no_split("voc", split, Path(root) if root is not None else None, _LAYOUT)
    folder = (
        None
        if split == "test"
        else "SegmentationClassAug"
        if split == "train" and train_list == "trainaug"
        else "SegmentationClass"
    )
    pairs = _listed(home, listing, folder)
    if train_list == "trainaug" and split == "train":
        _check_apart(home, listing, pairs)
    rules = _rules()
    others = tuple(
        Variant(f"data.labels={name}", where, rule)
        for name, (where, rule) in rules.items()
        if name != labels
    )
    identity = {
        "name": "voc",
        "split": split,
        "arguments": {"train_list": train_list, "labels": labels},
    }
    return FileDataset(
        identity,
        pairs,
        CLASSES,
        PALETTE.copy(),
        rules[labels][1],
        Advice(others, doubts=(two_classes(_TIP),)),
    )


def classes(*, root: Path | None = None) -> tuple[str, ...]:
    """The 21 names, known without data."""
    return CLASSES


def _rules() -> dict[str, tuple[str, LabelRule]]:
    """data.labels -> (when it is right, how labels are read)."""
    colours = {pack(rgb): number for number, rgb in enumerate(PALETTE)} | {pack(BORDER): IGNORE}
    return {
        "index": (
            "they are palette indices or grey values",
            label_rule(range(len(CLASSES)), [IGNORE], _TIP),
        ),
        "colors": ("they are the colours of VOC's palette", colour_rule(colours, _TIP)),
    }


def _home(root: Path) -> Path | None:
    """The folder that holds the lists: the root, or VOC2012 below it."""
    return next(
        (
            root / below
            for below in _NESTED
            if (root / below / "ImageSets" / "Segmentation").is_dir()
        ),
        None,
    )


def _listing(home: Path, split: Split, train_list: TrainList) -> Path | None:
    if split == "val" and train_list == "trainval":
        raise DataMissing(
            "with data.train_list: trainval the pictures of val are trained on, so there is no val split",
            tip="--set data.train_list=train for a score on val",
        )
    names = (
        {"trainaug": ("trainaug", "train_aug")}.get(train_list, (train_list,))
        if split == "train"
        else (split,)
    )
    files = [home / "ImageSets" / "Segmentation" / f"{name}.txt" for name in names]
    found = next((file for file in files if file.is_file()), None)
    if found is None and split == "train" and train_list == "trainaug":
        need = "ImageSets/Segmentation/trainaug.txt and SegmentationClassAug/, which come with the augmented labels"
        raise DataMissing(
            f"no list trainaug.txt in {files[0].parent}",
            need=need,
            tip="--set data.train_list=train",
        )
    return found


def _listed(home: Path, listing: Path, folder: str | None) -> list[Pair]:
    pairs = []
    for where, words in lines_of(listing):
        if len(words) > 2 or (len(words) == 1 and {*"/\\"} & {*words[0]}):
            need = "2007_000032, or picture and label, without blanks in their names"
            raise DataBroken(
                f"{where} is neither a stem nor a pair", got=" ".join(words)[:80], need=need
            )
        image = (
            inside(home, words[0], where)
            if len(words) == 2
            else _file(home / "JPEGImages", words[0], IMAGE_SUFFIXES)
        )
        label = None
        if folder is not None:
            label = (
                inside(home, words[1], where)
                if len(words) == 2
                else _file(home / folder, words[0], LABEL_SUFFIXES)
            )
        pairs.append((where, Pair(image.stem, image, label)))
    return check_list(listing, pairs, _LAYOUT)


def _check_apart(home: Path, listing: Path, pairs: list[Pair]) -> None:
    """Lists of augmented labels go around that hold pictures of val, which would be trained on and scored."""
    held_out = home / "ImageSets" / "Segmentation" / "val.txt"
    kept = {Path(words[0]).stem for _, words in lines_of(held_out)} if held_out.is_file() else set()
    both = [pair.stem for pair in pairs if pair.stem in kept]
    if both:
        raise DataBroken(
            f"{len(both)} pictures of {listing} are in {held_out.name} too",
            got=some(both),
            need="a list without them",
        )


def _file(folder: Path, stem: str, suffixes: tuple[str, ...]) -> Path:
    """The file of this stem, with the first suffix where there is none."""
    return by_stem(folder, stem, suffixes) or folder / f"{stem}{suffixes[0]}"
