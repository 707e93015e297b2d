"""Your own pictures: images and masks of equal stems in folders, or pictures without masks.

Either ``images/{train,val,test}`` with ``masks/{train,val,test}``, or ``{train,val,test}/images`` with ``{train,val,test}/masks``. A mask
holds one class id per pixel, as grey values or as palette indices. Without a folder of masks the split is unlabelled: a student can still
learn from the teacher on it.

Class names come from the recipe (``classes: [road, car]``, ids 0, 1 ...), else from ``classes.json`` (a list, or ``{id: name}`` with any
ids) or ``classes.txt`` (a name a line) in the root.
"""

from __future__ import annotations

import colorsys
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from freqkd_cli.datasets._dataset import SPLITS, Dataset, Split
from freqkd_cli.datasets._files import FileDataset, label_rule, pair_by_stem
from freqkd_cli.errors import DataBroken, DataMissing, UsageError
from freqkd_cli.labels import IGNORE

_LAYOUT = "images/{train,val,test} and masks/{train,val,test}, or {train,val,test}/images and {train,val,test}/masks"
_NAMES = "classes.json or classes.txt in the root, or data.classes in the recipe"


def build(
    *, split: Split, root: Path | None, size: tuple[int, int], classes: list[str] | None = None, ignore: list[int] | None = None
) -> Dataset:
    """One split of a folder; pictures keep their own size, ``size`` is that of the views cut from them.

    Args:
        classes: names of the ids 0, 1, ...; default from a file in the root.
        ignore: mask values that no loss and no score counts, beside 255.

    Raises:
        DataMissing: no root, no such split, no pictures, or masks without class names.
        DataBroken: class names that cannot be read, pictures without a mask; on reading, a damaged file, a mask of another size, or mask
            values outside the classes.
        UsageError: an ignored value that is a class as well.
    """
    images, masks = _find(_root(root), split)
    named = _named(_root(root), classes)
    if masks is not None and not named:
        raise DataMissing(f"no class names for the masks in {masks}", need=_NAMES)
    ids, dropped = sorted(named), sorted({IGNORE, *(ignore or [])})
    both = [value for value in dropped if value in named]
    if both or dropped[0] < 0 or dropped[-1] > IGNORE:
        raise UsageError("data.ignore does not fit the classes", got=dropped, need=f"values from 0 to 255 other than {ids[:3]} ...")
    names = [named[number] for number in ids]
    arguments = {"classes": names, "ids": ids, "ignore": dropped}
    rule = label_rule(ids, dropped, f"data.ignore in the recipe, or more classes: {_NAMES}")
    identity = {"name": "folder", "split": split, "arguments": arguments}
    return FileDataset(identity, pair_by_stem(images, masks), names, palette(len(ids)), rule)


def classes(*, root: Path | None = None, classes: list[str] | None = None, ignore: list[int] | None = None) -> tuple[str, ...]:
    """Class names from the recipe or the root; empty where neither names any, as is allowed for pictures without masks.

    Raises:
        DataMissing: only the root could name them, and there is none.
    """
    if classes is None and not _root(root).is_dir():
        raise DataMissing(f"there is no folder {root}", need=_LAYOUT, tip="data.root in the recipe, or --data-root DIR")
    named = _named(_root(root) if classes is None else Path(), classes)
    return tuple(named[number] for number in sorted(named))


def palette(number: int) -> np.ndarray:
    """``[K, 3]`` uint8: hues a golden section apart, so that neighbours differ however many there are."""
    hues = [(k * 0.618034 + 0.6) % 1 for k in range(number)]
    colours = [colorsys.hsv_to_rgb(hue, 0.75 if k % 2 else 0.5, 0.9 if k % 3 else 0.65) for k, hue in enumerate(hues)]
    return np.array([[round(255 * x) for x in colour] for colour in colours], dtype=np.uint8).reshape(number, 3)


def _root(root: Path | None) -> Path:
    if root is None:
        raise DataMissing("folder needs the folder of the pictures", need=_LAYOUT, tip="data.root in the recipe, or --data-root DIR")
    return Path(root)


def _find(root: Path, split: str) -> tuple[Path, Path | None]:
    """Folders of the pictures and of the masks, the latter None where there is none."""
    for images, masks in ((root / "images" / split, root / "masks" / split), (root / split / "images", root / split / "masks")):
        if images.is_dir():
            return images, masks if masks.is_dir() else None
    there = [name for name in SPLITS if (root / "images" / name).is_dir() or (root / name / "images").is_dir()]
    if not root.is_dir():
        got = "no such folder"
    else:
        got = f"only {', '.join(there)}" if there else ", ".join(sorted(p.name for p in root.iterdir())[:8]) or "an empty folder"
    raise DataMissing(f"no split {split!r} in {root}", got=got, need=_LAYOUT, tip="data.root in the recipe, or --data-root DIR")


def _named(root: Path, given: Sequence[str] | None) -> dict[int, str]:
    """Mask value -> class name.

    Raises:
        DataBroken: a file that holds something else, a name twice, or an id outside 0 .. 254.
    """
    where, table = "data.classes", dict(enumerate(given or []))
    if given is None and (root / "classes.json").is_file():
        where = str(root / "classes.json")
        table = _from_json(root / "classes.json")
    elif given is None and (root / "classes.txt").is_file():
        where = str(root / "classes.txt")
        table = dict(enumerate(line.strip() for line in _text(root / "classes.txt").splitlines() if line.strip()))
    if len(set(table.values())) != len(table) or any(not 0 <= number < IGNORE for number in table):
        raise DataBroken(f"{where} does not name classes", got=str(table)[:120], need="every name once, ids from 0 to 254")
    return table


def _from_json(path: Path) -> dict[int, str]:
    need = 'a list of names, or {"0": "name", ...}'
    try:
        content: Any = json.loads(_text(path))
        table = dict(enumerate(content)) if isinstance(content, list) else {int(number): name for number, name in content.items()}
    except (ValueError, AttributeError) as error:
        raise DataBroken(f"cannot read class names from {path}", got=error, need=need) from error
    if not all(isinstance(name, str) for name in table.values()):
        raise DataBroken(f"cannot read class names from {path}", got=str(content)[:120], need=need)
    return table


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataBroken(f"cannot read {path}", got=error) from error
