"""ADE20K, 150 classes of indoor and outdoor scenes, in the layout of ADEChallengeData2016.

An annotation stores 0 where nothing is labelled and 1 .. 150 for the classes. Here 0 becomes void
and k becomes k - 1. The test split has no public labels and is not read.

Source: Zhou et al., "Scene Parsing through ADE20K Dataset", CVPR 2017 (MIT scene parsing
benchmark). Class names (the first of each synonym) and colors as usual for the benchmark; the
names equal those of the published SegFormer checkpoints.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from freqkd_cli.images.dataset import Dataset, Split
from freqkd_cli.images.file_dataset import FileDataset
from freqkd_cli.images.label_advice import Advice, Variant, two_classes
from freqkd_cli.images.label_rules import label_rule
from freqkd_cli.images.pairs import no_split, pair_by_stem
from freqkd_cli.views.labels import IGNORE

_NAMES = """
    wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk,
    person, earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa,
    shelf, house, sea, mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp,
    bathtub, railing, cushion, base, box, column, signboard, chest of drawers, counter, sand,
    sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool
    table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet,
    flower, book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair,
    boat, bar, arcade machine, hovel, bus, towel, light, truck, tower, chandelier, awning,
    streetlight, booth, television receiver, airplane, dirt track, apparel, pole, land,
    bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer
    belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag,
    minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, bicycle,
    lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray,
    ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass,
    clock, flag
"""
CLASSES = tuple(" ".join(name.split()) for name in _NAMES.split(","))

_COLORS = """
    787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d
    787846 08ff33 ff0652 8fff8c ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0
    0907e6 dcdcdc ff095c 7009ff 08ffd6 07ffe0 ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06
    ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff eb0cff a09614 00a3ff 8c8c8c fa0a0f 14ff00 1fff00
    ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff 0bc8c8 ff5200 00fff5 003dff 00ff70
    00ff85 ff0000 ffa300 ff6600 c2ff00 008fff 33ff00 0052ff 00ff29 00ffad 0a00ff adff00 00ff99
    ff5c00 ff00ff ff00f5 ff0066 ffad00 ff0014 ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2 00ff52
    000aff 0070ff 3300ff 00c2ff 007aff 00ffa3 ff9900 00ff0a ff7000 8fff00 5200ff a3ff00 ffeb00
    08b8aa 8500ff 00ff5c b800ff ff001f 00b8ff 00d6ff ff0070 5cff00 00e0ff 70e0ff 46b8a0 a300ff
    9900ff 47ff00 ff00a3 ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500 0abed4 d6ff00
    00ccff 1400ff ffff00 0099ff 0029ff 00ffcc 2900ff 29ff00 ad00ff 00f5ff 4700ff 7a00ff 00ffb8
    005cff b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff
"""
PALETTE = np.frombuffer(bytes.fromhex(_COLORS), dtype=np.uint8).reshape(-1, 3)

LAYOUT = (
    "images/{training,validation}/*.jpg and annotations/{training,validation}/*.png, "
    "in ADEChallengeData2016 or in the folder that contains it"
)
_TIP = "the annotations as published"
_FOLDER = {"train": "training", "val": "validation"}
_CONDITION = {
    "void": "0 is void, as published",
    "keep": "the files were reduced before: 0 is the first class, 255 is void",
}


def build(
    *,
    split: Split,
    root: Path | None,
    size: tuple[int, int],
    zero_label: Literal["void", "keep"] = "void",
) -> Dataset:
    """Return one split of ADE20K. Images keep their own size; ``size`` is that of the views.

    Args:
        zero_label: void if 0 is void and the classes count from 1, as published; keep if the files
            were reduced before, so that 0 is the first class and 255 is void.

    Raises:
        DataMissing: no root, or no such split.
        DataBroken: images without an annotation; when reading: a damaged file or labels of the
            other form.
    """
    home = _home(Path(root), split) if root is not None else None
    if home is None:
        raise no_split("ade20k", split, Path(root) if root is not None else None, LAYOUT)
    pairs = pair_by_stem(home / "images" / _FOLDER[split], home / "annotations" / _FOLDER[split])
    rules = {
        "void": label_rule(range(1, len(CLASSES) + 1), [0], f"use {_TIP}"),
        "keep": label_rule(range(len(CLASSES)), [IGNORE], f"use {_TIP}"),
    }
    others = tuple(
        Variant((f"data.zero_label={name}",), _CONDITION[name], rule, usual=True)
        for name, rule in rules.items()
        if name != zero_label
    )
    identity = {"name": "ade20k", "split": split, "arguments": {"zero_label": zero_label}}
    advice = Advice(others, doubts=(two_classes(_TIP),))
    return FileDataset(identity, pairs, CLASSES, PALETTE.copy(), rules[zero_label], advice)


def classes(*, root: Path | None = None) -> tuple[str, ...]:
    """Return the 150 names; no data is needed."""
    return CLASSES


def _home(root: Path, split: Split) -> Path | None:
    """Return the folder of images and annotations: the root, or ADEChallengeData2016 in it."""
    folder = _FOLDER.get(split)
    homes = (root, root / "ADEChallengeData2016")
    return next(
        (
            home
            for home in homes
            if folder and all((home / kind / folder).is_dir() for kind in ("images", "annotations"))
        ),
        None,
    )
