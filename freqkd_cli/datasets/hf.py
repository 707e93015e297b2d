"""Hugging Face ``datasets``: a folder of ``save_to_disk``, parquet files, or an id of the hub.

``root`` is a folder or a parquet file on this machine. ``repo`` is the id of a data set of the hub,
which is downloaded once; a local folder replaces it. It needs the extra ``hf``. No code of a data
set is run.

``image`` and ``label`` name the columns. Label images hold one class id per pixel, as in
``folder``, with the keys ``zero_label``, ``ignore``, ``label_map``, ``threshold`` and ``scale``.
Arrays ``[H, W]`` of class numbers are read as well. With ``label: null`` the images are used
without labels.

Class names come from the recipe (``classes``), else from the feature ``ClassLabel`` of the label
column, else from ``id2label.json`` or another class list beside the data.

The train, val and test splits are ``train``, ``validation`` and ``test`` of the data set, or what
``splits`` names. ``split: 0.8`` divides the images of train where there is no split for val; a test
split of the data set stays one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from freqkd_cli.datasets._folder_classes import ClassList, class_list
from freqkd_cli.datasets._folder_labels import Ignore, LabelKeys, LabelMap, rule_of, values_of
from freqkd_cli.datasets._folder_split import Shares, in_split, shares_of
from freqkd_cli.datasets._hf_cells import Cell, Column, class_label_names
from freqkd_cli.datasets._hf_source import (
    ID2LABEL,
    LAYOUT,
    LOOSE_FILES,
    Source,
    id2label_file,
    name_of_split,
    open_splits,
    rows_of,
)
from freqkd_cli.datasets._label_fixes import advice_of
from freqkd_cli.datasets._label_values import Colors, covers
from freqkd_cli.errors import DataMissing, UsageError, some
from freqkd_cli.images.dataset import Dataset, Split
from freqkd_cli.images.file_dataset import FileDataset
from freqkd_cli.images.pairs import Pair
from freqkd_cli.images.palette import palette_with
from freqkd_cli.recipe.value_types import Positive

__all__ = ["LAYOUT", "build", "build_pool", "classes", "palette_of"]

Splits = dict[Literal["train", "val", "test"], str]


def build(
    *,
    split: Split,
    root: Path | None,
    size: tuple[int, int],
    repo: str | None = None,
    revision: str | None = None,
    config: str | None = None,
    image: str = "image",
    label: str | None = "label",
    splits: Splits | None = None,
    split_: Shares | None = None,
    classes: list[str] | None = None,
    ignore: Ignore | None = None,
    zero_label: Literal["keep", "void"] = "keep",
    label_map: LabelMap | None = None,
    threshold: float | None = None,
    scale: Positive | None = None,
    colors: Colors | None = None,
) -> Dataset:
    """Return one split of the data set. Images keep their own size; ``size`` is that of the views.

    Args:
        repo: id of a data set of the hub, OWNER/NAME, where there is no root.
        revision: branch, tag or commit of the repository.
        config: subset of a data set that has several.
        image: column of the images.
        label: column of the label images, or of arrays [H, W]; null for images without labels.
        splits: split of the recipe -> split of the data set, such as {val: test}; by default
            train, validation and test.
        split_: share of the images of train that train takes, such as 0.8; the others are val. A
            list gives the shares of train, val and test. The hash of an image's name decides.
        classes: names of the ids 0, 1, ...; default from the data set.
        ignore: a label value, or a list of them, that no loss and no score counts, in addition to
            255.
        zero_label: void if 0 in a label image means void and the classes count from 1
            (reduce_zero_label elsewhere); keep if 0 is the first class.
        label_map: label value -> class id, or 255 for void, for values that are not the ids; a key
            may be a range, {"128-255": 1}, or a color, {"#804080": 0}.
        threshold: of two classes, values from here on are the second one, such as 128 for masks
            that were saved as JPEG.
        scale: the classes are stored as multiples of this, such as 85 for 0, 85, 170 and 255.
        colors: class name -> [R, G, B], or a list with one color per class. Only for drawing.

    Raises:
        DataMissing: it is not there, has no such split or column, or labels without class names.
        DataBroken: the library cannot read it; when reading: as in ``folder``.
        UsageError: the library is not installed, or keys that contradict each other.
    """
    source = Source(root and Path(root), repo, revision, config)
    rows, where, shares = rows_of(source, split, splits, shares_of(split_) if split_ else None)
    listed = _class_list(source, rows, label, classes)
    void = (value for value in listed.ignored if not covers(label_map or {}, value))
    ids = sorted(listed.names)
    names = tuple(listed.names[number] for number in ids)
    if label is not None:
        _check_names(names, source)
    ignored = tuple(sorted({*values_of(ignore), *void}))
    keys = LabelKeys(ids, ignored, zero_label, dict(label_map or {}), threshold, scale, names)
    given = {"repo": repo, "revision": revision, "config": config, "split": split_}
    arguments = keys.arguments() | {"image": image, "label": label, "splits": splits}
    arguments |= {key: value for key, value in given.items() if value is not None}
    identity = {"name": "hf", "split": split, "arguments": arguments}
    rule = rule_of(keys)
    pairs = _pairs(rows, where, image, label, source)
    pairs = in_split(pairs, split, shares) if shares else pairs
    return FileDataset(
        identity, pairs, names, palette_with(colors, names), rule, advice_of(keys, rule)
    )


def build_pool(*, root: Path | None, arguments: Mapping[str, Any]) -> Dataset:
    """Return the images of train without labels; the label column is not read.

    Raises:
        DataMissing: it is not there, or has no images.
    """
    keys = ("repo", "revision", "config")
    source = Source(root and Path(root), *(arguments.get(key) for key in keys))
    rows, where, _ = rows_of(source, "train", arguments.get("splits"), None)
    pairs = _pairs(rows, where, arguments.get("image", "image"), None, source)
    given = {key: arguments[key] for key in (*keys, "image", "splits") if arguments.get(key)}
    identity = {"name": "hf", "split": "train", "arguments": given}
    keys_of_none = LabelKeys([])
    return FileDataset(identity, pairs, (), np.zeros((0, 3), np.uint8), rule_of(keys_of_none))


def classes(
    *,
    root: Path | None = None,
    repo: str | None = None,
    revision: str | None = None,
    config: str | None = None,
    label: str | None = "label",
    splits: Splits | None = None,
    classes: list[str] | None = None,
) -> tuple[str, ...]:
    """Return class names from the recipe or the data set; empty where neither has any.

    Raises:
        DataMissing: the names are not in the recipe, and the data set is not there.
    """
    if classes is not None:
        names = class_list(Path(), classes).names
    else:
        source = Source(root and Path(root), repo, revision, config)
        opened = open_splits(source)
        rows = opened[name_of_split("train", splits or {}, opened)]
        names = _class_list(source, rows, label, None).names
    return tuple(names[number] for number in sorted(names))


def palette_of(names: Sequence[str], colors: Colors | None = None) -> np.ndarray:
    """Return ``[K, 3]`` uint8: the colors of these classes without opening the data set.

    Raises:
        UsageError: a name that is no class, or a list of another length.
    """
    return palette_with(colors, names)


def _class_list(
    source: Source, rows: Any, label: str | None, classes: Sequence[str] | None
) -> ClassList:
    """Return the classes: of the recipe, of the label column, of a file beside the data."""
    if classes is None and label in rows.features:
        classes = class_label_names(rows.features[label])
    if classes is not None:
        return class_list(Path(), classes)
    if source.root is None:
        file = id2label_file(source)
        return class_list(file.parent, None) if file else ClassList()
    return class_list(source.root if source.root.is_dir() else source.root.parent, None)


def _check_names(names: Sequence[str], source: Source) -> None:
    """
    Raises:
        DataMissing: the label column has no class names.
        UsageError: one class.
    """
    if not names:
        raise DataMissing(
            f"no class names for the labels of {source}",
            need=f"data.classes in the recipe, {ID2LABEL} beside the data, or ClassLabel",
            tip="--set 'data.classes=[NAME, NAME]'",
            key="classes",
        )
    if len(names) == 1:
        raise UsageError(
            f"one class is no segmentation: every pixel would be {names[0]}",
            need="at least two classes",
            tip=f"--set 'data.classes=[background, {names[0]}]'",
            key="classes",
        )


def _pairs(rows: Any, where: str, image: str, label: str | None, source: Source) -> list[Pair]:
    """
    Raises:
        DataMissing: there is no such column, or no row.
    """
    for key, column in (("image", image), ("label", label)):
        if column is not None and column not in rows.features:
            other = f" (null for images without labels); {LOOSE_FILES}" if key == "label" else ""
            raise DataMissing(
                f"{where} has no column {column!r}",
                got=f"the columns {some(rows.features, 8)}",
                need=f"the column of the {key}s",
                tip=f"--set data.{key}=COLUMN{other}",
                key=key,
            )
    if not len(rows):
        raise DataMissing(f"{where} has no rows", need="at least one image", key="root")
    folder = source.folder
    images = Column(rows, image, where, "image", folder)
    labels = Column(rows, label, where, "label", folder) if label is not None else None
    return [
        Pair(stem, Cell(images, row), Cell(labels, row) if labels else None)
        for row, stem in enumerate(images.stems())
    ]
