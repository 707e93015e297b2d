"""Scores of label PNGs that any program wrote for the images of a split."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from freqkd_cli.errors import DataBroken, DataMissing, UsageError
from freqkd_cli.images.file_dataset import FileDataset
from freqkd_cli.images.stored_labels import read_labels, read_values
from freqkd_cli.score.evaluate import Result, check_labelled
from freqkd_cli.score.label_files import OVERLAY
from freqkd_cli.score.tally import Tally
from freqkd_cli.views.labels import void_label

if TYPE_CHECKING:
    from freqkd_cli.images.dataset import Dataset

log = logging.getLogger(__name__)

Coding = Literal["train-ids", "masks"]
"""How files of predictions are coded: class numbers, or as the data set's own masks."""

LISTED = 12
"""Files of one kind of problem that a message lists; the others are counted."""


def score_files(
    folder: Path,
    dataset: Dataset,
    *,
    coding: Coding = "train-ids",
    limit: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Result:
    """Score the PNGs of ``folder`` and its subfolders, one per image and named by its stem.

    Gray values or palette indices are class numbers, or with ``coding: masks`` whatever the data
    set's own masks hold. The overlays that ``freqkd predict`` writes beside its label PNGs are
    skipped.

    Args:
        coding: how the files are coded.
        limit: only the first images of the split, 0 = all; files of the others are ignored.
        progress: called with the number of images that are done.

    Raises:
        DataMissing: there is no such folder, or no PNG in it.
        UsageError: the split has no labels.
        DataBroken: files are missing, belong to no image, cannot be read, have another size, or
            hold a value that is no class where the label counts; all of them in one message.
    """
    check_labelled(dataset)
    read = reader(dataset, coding)
    files, repeated = _files(folder, dataset)
    names = [dataset.name(index) for index in range(len(dataset))]
    overlays = {f"{stem}{OVERLAY}" for stem in files}
    unknown = [files[stem].name for stem in sorted(files.keys() - set(names) - overlays)]
    scored = names[: limit or None]
    missing = [f"{name}.png" for name in scored if name not in files]
    wrong: list[str] = []
    classes, started = len(dataset.classes), time.monotonic()
    tally = Tally(classes)
    for index, name in enumerate(scored):
        if name in files:
            problem = _count(files[name], dataset, index, tally, read)
            wrong += [problem] if problem else []
        if progress is not None:
            progress(index + 1)
    tip = None
    if wrong and coding == "train-ids" and _fits(files, dataset, scored):
        tip = "--coding masks, since the values are those of the data set's own masks"
    _require_none(folder, missing, unknown, repeated, wrong, classes, tip)
    if coding == "train-ids" and _recoded(dataset) and _fits(files, dataset, scored):
        log.warning(
            "%s: the files are read as class numbers, and they also fit the coding of the data "
            "set's masks; --coding masks reads them so",
            folder,
        )
    return Result(tally, len(scored), time.monotonic() - started)


def _files(folder: Path, dataset: Dataset) -> tuple[dict[str, Path], list[str]]:
    """The PNGs of a folder and its subfolders by stem, and those whose stem occurs before.

    Raises:
        DataMissing: there is no such folder, or no PNG in it.
    """
    need = f"a PNG for every image, such as {dataset.name(0)}.png"
    if not folder.is_dir():
        raise DataMissing(f"--predictions {folder} is not a folder", need=need, key="predictions")
    files: dict[str, Path] = {}
    repeated = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.suffix.lower() != ".png" or any(part.startswith(".") for part in inside.parts):
            continue
        if path.stem in files:
            repeated.append(str(inside))
        files.setdefault(path.stem, path)
    if not files:
        raise DataMissing(f"there is no PNG in {folder}", need=need, key="predictions")
    return files, repeated


def _require_none(
    folder: Path,
    missing: list[str],
    unknown: list[str],
    repeated: list[str],
    wrong: list[str],
    classes: int,
    tip: str | None,
) -> None:
    """
    Raises:
        DataBroken: with all problems of the files, by kind.
    """
    kinds = {
        "missing": missing,
        "of no image of this split": unknown,
        "with a stem that occurs twice": repeated,
    }
    lines = [f"{len(names)} {kind}: {_some(names, ', ')}" for kind, names in kinds.items() if names]
    if wrong:
        below = "\n    "
        lines.append(f"{len(wrong)} that cannot be counted:{below}{_some(wrong, below)}")
    if lines:
        values = f"values 0 .. {classes - 1} wherever the label counts"
        raise DataBroken(
            "\n  ".join([f"the files of {folder} cannot be scored", *lines]),
            need=f"a PNG for every image, of its size, with {values}",
            tip=tip,
            key="predictions",
        )


def _some(lines: list[str], between: str) -> str:
    more = [f"... and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
    return between.join([*lines[:LISTED], *more])


def reader(dataset: Dataset, coding: Coding) -> Callable[[Path], np.ndarray]:
    """Return the function that reads a file of predictions as train ids, ``[H, W]``.

    Raises:
        UsageError: the data set has no masks with a coding of their own.
    """
    if coding == "train-ids":
        return read_values
    if not isinstance(dataset, FileDataset):
        raise UsageError(
            "--coding masks needs a data set that reads mask files",
            tip="leave it out: the files hold class numbers",
        )
    rule = dataset.rule

    def read(path: Path) -> np.ndarray:
        stored = read_labels(path, colors=rule.colors is not None)
        if stored.rgb and rule.colors is None:
            raise DataBroken(f"{path} is not a label image", got="RGB colors")
        return rule.ids(stored.values)

    return read


def _recoded(dataset: Dataset) -> bool:
    """Whether the masks of the data set hold other values than class numbers."""
    if not isinstance(dataset, FileDataset) or dataset.rule.colors is not None:
        return False
    numbers = np.arange(len(dataset.classes))
    return not np.array_equal(dataset.rule.table[numbers], numbers)


def _fits(files: Mapping[str, Path], dataset: Dataset, scored: Sequence[str]) -> bool:
    """Whether every file can be read in the coding of the data set's masks."""
    if not isinstance(dataset, FileDataset):
        return False
    tally, read = Tally(len(dataset.classes)), reader(dataset, "masks")
    return not any(
        _count(files[name], dataset, index, tally, read)
        for index, name in enumerate(scored)
        if name in files
    )


def _count(
    path: Path, dataset: Dataset, index: int, tally: Tally, read: Callable[[Path], np.ndarray]
) -> str:
    """Count one file; what is wrong with it, or the empty string."""
    try:
        stored = read(path)
    except DataBroken as error:
        return f"{path.name} cannot be read: {error.got}"
    labels = dataset.read(index)[1]
    assert labels is not None
    if stored.ndim != 2 or stored.dtype.kind not in "ui":
        values = "fractions" if stored.ndim == 2 else f"{stored.shape[-1]} channels"
        return f"{path.name} has {values}, not one class number per pixel"
    if stored.shape != labels.shape:
        sizes = ("x".join(map(str, values.shape)) for values in (stored, labels))
        return "{} is {}, but its image is {}".format(path.name, *sizes)
    counted = labels != void_label(tally.classes)
    outside = np.unique(stored[counted & ((stored < 0) | (stored >= tally.classes))])
    if len(outside):
        more = " ..." if len(outside) > 6 else ""
        return f"{path.name} holds {', '.join(map(str, outside[:6]))}{more}"
    tally.add(torch.from_numpy(stored.astype(np.int64)), torch.from_numpy(labels.astype(np.int64)))
    return ""
