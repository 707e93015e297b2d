"""Your own pictures: images and masks of equal stems in folders, or pictures without masks.

Either ``images/{train,val,test}`` with ``masks/{train,val,test}``, or ``{train,val,test}/images`` with ``{train,val,test}/masks``. A mask
holds one class id per pixel, as grey values or as palette indices, and fits its picture as EXIF turns it. Without a folder of masks the
split is unlabelled: a student can still learn from the teacher on it.

Class names come from the recipe (``classes: [road, car]``, ids 0, 1 ...), else from ``classes.json`` (a list, or ``{id: name}`` with any
ids) or ``classes.txt`` (a name a line) in the root. Masks whose values are not those ids are read with ``zero_label``, ``ignore`` or
``label_map``, so that no file has to be written again.
"""

from __future__ import annotations

import colorsys
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from freqkd_cli.errors import DataBroken, DataMissing, UsageError
from freqkd_cli.images.dataset import SPLITS, Dataset, Split
from freqkd_cli.images.decode import FileDataset
from freqkd_cli.images.label_values import (
    Advice,
    Doubt,
    LabelRule,
    Variant,
    black_and_white,
    colour_rule,
    label_rule,
)
from freqkd_cli.images.pairs import pair_by_stem, some
from freqkd_cli.views.labels import IGNORE

_LAYOUT = "images/{train,val,test} and masks/{train,val,test}, or {train,val,test}/images and {train,val,test}/masks"
_TIP = "data.label_map or data.ignore in the recipe, or more classes: classes.json or classes.txt in the root, or data.classes"
_WHERE = {"void": "0 is void and the classes count from 1", "keep": "0 is the first class"}
_NAMES = "classes.json or classes.txt in the root, or data.classes in the recipe"

Stored = Annotated[
    str, Field(pattern=r"^([0-9]{1,2}|1[0-9]{2}|2[0-4][0-9]|25[0-5]|#[0-9a-fA-F]{6})$")
]
LabelMap = dict[Stored, Annotated[int, Field(ge=0, le=IGNORE)]]


def build(
    *,
    split: Split,
    root: Path | None,
    size: tuple[int, int],
    classes: list[str] | None = None,
    ignore: list[int] | None = None,
    zero_label: Literal["keep", "void"] = "keep",
    label_map: LabelMap | None = None,
) -> Dataset:
    """One split of a folder; pictures keep their own size, ``size`` is that of the views cut from them.

    Args:
        classes: names of the ids 0, 1, ...; default from a file in the root.
        ignore: mask values that no loss and no score counts, beside 255.
        zero_label: void where 0 in a mask is void and the classes count from 1; keep where 0 is the first class.
        label_map: mask value -> id of a class, or 255 for void, for values that are not the ids: {255: 1}. With colours as keys,
            {"#804080": 0, "#000000": 255}, masks are read as colours, and every colour must be named.

    Raises:
        DataMissing: no root, no such split, no pictures, or masks without class names.
        DataBroken: class names that cannot be read, pictures without a mask; on reading, a damaged file, a mask of another size, or mask
            values outside the classes.
        UsageError: an ignored value that is a class as well, or a map to something that is no class.
    """
    images, masks = _find(_root(root), split)
    named = _named(_root(root), classes)
    if masks is not None and not named:
        raise DataMissing(f"no class names for the masks in {masks}", need=_NAMES)
    ids, dropped = sorted(named), sorted({IGNORE, *(ignore or [])})
    names = [named[number] for number in ids]
    arguments: dict[str, Any] = {"classes": names, "ids": ids, "ignore": dropped}
    arguments |= {"zero_label": zero_label} if zero_label != "keep" else {}
    arguments |= {"label_map": dict(sorted(label_map.items()))} if label_map else {}
    rule = _mapped(_rule(ids, dropped, zero_label), ids, label_map or {}, ignore or [])
    sure = IGNORE in (ignore or []) or str(IGNORE) in (label_map or {}) or rule.colours is not None
    advice = _advice(ids, dropped, zero_label, sure)
    identity = {"name": "folder", "split": split, "arguments": arguments}
    return FileDataset(
        identity, pair_by_stem(images, masks), names, palette(len(ids)), rule, advice
    )


def classes(*, root: Path | None = None, classes: list[str] | None = None) -> tuple[str, ...]:
    """Class names from the recipe or the root; empty where neither names any, as is allowed for pictures without masks.

    Raises:
        DataMissing: only the root could name them, and there is none.
    """
    if classes is None and not _root(root).is_dir():
        raise DataMissing(
            f"there is no folder {root}",
            need=_LAYOUT,
            tip="data.root in the recipe, or --data-root DIR",
        )
    named = _named(_root(root) if classes is None else Path(), classes)
    return tuple(named[number] for number in sorted(named))


def palette(number: int) -> np.ndarray:
    """``[K, 3]`` uint8: hues a golden section apart, so that neighbours differ however many there are."""
    hues = [(k * 0.618034 + 0.6) % 1 for k in range(number)]
    colours = [
        colorsys.hsv_to_rgb(hue, 0.75 if k % 2 else 0.5, 0.9 if k % 3 else 0.65)
        for k, hue in enumerate(hues)
    ]
    return np.array(
        [[round(255 * x) for x in colour] for colour in colours], dtype=np.uint8
    ).reshape(number, 3)


def _rule(ids: list[int], dropped: list[int], zero_label: str) -> LabelRule:
    """How masks are read before ``label_map``.

    Raises:
        UsageError: the keys contradict each other or the classes.
    """
    if zero_label == "void" and not _from_zero(ids):
        raise UsageError(
            "data.zero_label: void needs class ids from 0 on",
            got=f"{ids[:3]} ...",
            tip="--set 'data.ignore=[0]'",
        )
    stored = [number + 1 for number in ids] if zero_label == "void" else ids
    both = [value for value in dropped if value in stored]
    if both or dropped[0] < 0 or dropped[-1] > IGNORE:
        raise UsageError(
            "data.ignore does not fit the classes",
            got=dropped,
            need=f"values from 0 to 255 other than {stored[:3]} ...",
        )
    return label_rule(stored, {*dropped, 0} if zero_label == "void" else dropped, _TIP)


def _mapped(
    rule: LabelRule, ids: list[int], label_map: Mapping[str, int], ignore: list[int]
) -> LabelRule:
    """The rule with ``label_map`` laid over it; colours take its place.

    Raises:
        UsageError: the map names what is no class, values and colours, or values that are ignored.
    """
    train_ids = {number: place for place, number in enumerate(ids)} | {IGNORE: IGNORE}
    wrong = {key: number for key, number in label_map.items() if number not in train_ids}
    if wrong:
        raise UsageError(
            "data.label_map leads to ids that are no classes",
            got=_pairs(wrong),
            need=f"one of {some(map(str, ids), 12)}, or 255",
        )
    coloured = [key for key in label_map if key.startswith("#")]
    if len({key.lower() if key.startswith("#") else int(key) for key in label_map}) < len(
        label_map
    ):
        raise UsageError(
            "data.label_map names a value twice", got=_pairs(label_map), need="each once"
        )
    if coloured and len(coloured) == len(label_map):
        return colour_rule(
            {int(key[1:], 16): train_ids[number] for key, number in label_map.items()}, _TIP
        )
    twice = {key: number for key, number in label_map.items() if coloured or int(key) in ignore}
    if twice:
        what = (
            "names both values and colours" if coloured else "names values that data.ignore drops"
        )
        raise UsageError(f"data.label_map {what}", got=_pairs(twice), need="one of the two")
    table = rule.table.copy()
    for key, number in label_map.items():
        table[int(key)] = train_ids[number]
    return replace(
        rule,
        table=table,
        need=f"{rule.need}{f', with {_pairs(label_map)} by data.label_map' if label_map else ''}",
    )


def _pairs(label_map: Mapping[str, int]) -> str:
    return some((f"{key}: {number}" for key, number in label_map.items()), 6)


def _from_zero(ids: list[int]) -> bool:
    return ids == [*range(len(ids))]


def _advice(ids: list[int], dropped: list[int], zero_label: str, sure: bool) -> Advice:
    """What may be wrong with the masks. ``sure``: the recipe says what 255 is, so nobody need wonder whether it is the thing itself."""
    other = "keep" if zero_label == "void" else "void"
    stored = [number + 1 for number in ids] if other == "void" else ids
    zero = {0} if other == "void" else set()
    variants = (
        Variant(
            f"data.zero_label={other}",
            _WHERE[other],
            label_rule(stored, {*dropped, *zero} - {*stored}, _TIP),
        ),
    )
    variants = variants if _from_zero(ids) and len(ids) < IGNORE else ()
    if sure or len(ids) < 2:
        return Advice(variants, tuple(ids))
    way = "--set 'data.ignore=[255]' where it is void"
    first = (
        "" if zero_label == "keep" and not ids[0] else f"0: {ids[0]}, "
    )  # needed where 0 is not read as the first class already
    two = black_and_white(
        f"--set 'data.label_map={{{first}255: {ids[1]}}}' where 255 is the second class; or {way}"
    )
    if zero_label == "keep":
        return Advice(variants, tuple(ids), (two,))
    what = "hold 255 and never the last class, as masks do that were reduced before"
    reduced = Doubt(
        frozenset({len(ids)}), what, f"--set data.zero_label=keep where they were; or {way}"
    )
    return Advice(variants, tuple(ids), (two, reduced))


def _root(root: Path | None) -> Path:
    if root is None:
        raise DataMissing(
            "folder needs the folder of the pictures",
            need=_LAYOUT,
            tip="data.root in the recipe, or --data-root DIR",
        )
    return Path(root)


def _find(root: Path, split: str) -> tuple[Path, Path | None]:
    """Folders of the pictures and of the masks, the latter None where there is none.

    Raises:
        DataMissing: there are no pictures of the split.
        DataBroken: the masks are no folder.
    """
    for images, masks in (
        (root / "images" / split, root / "masks" / split),
        (root / split / "images", root / split / "masks"),
    ):
        if images.is_dir():
            return images, _masks(masks)
    there = [
        name
        for name in SPLITS
        if (root / "images" / name).is_dir() or (root / name / "images").is_dir()
    ]
    if not root.is_dir():
        got = "no such folder"
    else:
        got = (
            f"only {', '.join(there)}"
            if there
            else ", ".join(sorted(p.name for p in root.iterdir())[:8]) or "an empty folder"
        )
    raise DataMissing(
        f"no split {split!r} in {root}",
        got=got,
        need=_LAYOUT,
        tip="data.root in the recipe, or --data-root DIR",
    )


def _masks(path: Path) -> Path | None:
    """The folder of the masks, None where there is none: then the split has no labels, which a link to nothing does not say."""
    if path.is_dir():
        return path
    lost = next((one for one in (path, path.parent) if one.is_symlink() and not one.exists()), None)
    if lost is not None or path.exists():
        raise DataBroken(
            f"{lost or path} is no folder",
            got="a link to nothing" if lost else "a file",
            need="a folder of masks, or none",
        )
    return None


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
        table = dict(
            enumerate(
                line.strip() for line in _text(root / "classes.txt").splitlines() if line.strip()
            )
        )
    blank = any(not name.strip() for name in table.values())
    if (
        blank
        or len(set(table.values())) != len(table)
        or any(not 0 <= number < IGNORE for number in table)
    ):
        raise DataBroken(
            f"{where} does not name classes",
            got=str(table)[:120],
            need="every name once and not empty, ids from 0 to 254",
        )
    return table


def _from_json(path: Path) -> dict[int, str]:
    need = 'a list of names, or {"0": "name", ...}'
    try:
        content: Any = json.loads(_text(path), object_pairs_hook=_each_once)
        table = (
            dict(enumerate(content))
            if isinstance(content, list)
            else {int(number): name for number, name in content.items()}
        )
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataBroken(f"cannot read class names from {path}", got=error, need=need) from error
    if not all(isinstance(name, str) for name in table.values()):
        raise DataBroken(f"cannot read class names from {path}", got=str(content)[:120], need=need)
    return table


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a JSON file, in which Python would let the last of several equal keys win."""
    numbers = [int(number) for number, _ in pairs]
    if len(set(numbers)) < len(numbers):
        raise ValueError("an id twice")
    return dict(pairs)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataBroken(f"cannot read {path}", got=error, need="text in UTF-8") from error
