"""Scores of label PNGs that any tool wrote for the pictures of a split: the same count as for a model, without the model."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from freqkd_cli.errors import DataBroken, DataMissing
from freqkd_cli.images.stored_labels import read_values
from freqkd_cli.score.evaluate import Result, check_labelled
from freqkd_cli.score.label_files import OVERLAY
from freqkd_cli.score.tally import Tally
from freqkd_cli.views.labels import IGNORE

if TYPE_CHECKING:
    from freqkd_cli.images.dataset import Dataset

LISTED = 12
"""Files of one kind of problem that a message names; the others are counted."""


def score_files(
    folder: Path, dataset: Dataset, *, limit: int = 0, progress: Callable[[int], None] | None = None
) -> Result:
    """Score ``folder``'s PNGs, one for each picture and named after its stem: grey values or palette indices are class numbers.

    The overlays that ``freqkd predict`` writes beside its label PNGs are passed over.

    Args:
        limit: only the first pictures of the split, 0 = all; files of the others are let be.
        progress: called with the number of pictures that are done.

    Raises:
        DataMissing: there is no such folder, or no PNG in it.
        UsageError: the split has no labels.
        DataBroken: files that are missing, that belong to no picture, that cannot be read, of another size, or with a value that is no
            class where the label counts; all of them in one message.
    """
    check_labelled(dataset)
    if not folder.is_dir():
        raise DataMissing(
            f"there is no folder {folder}", need="--predictions DIR with a PNG for every picture"
        )
    files = {
        path.stem: path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() == ".png" and not path.name.startswith(".")
    }
    if not files:
        raise DataMissing(
            f"no PNG in {folder}", need=f"a PNG for every picture, such as {dataset.name(0)}.png"
        )
    names = [dataset.name(index) for index in range(len(dataset))]
    # What ``predict`` shows beside a label PNG is no label.
    overlays = {f"{stem}{OVERLAY}" for stem in files}
    strange = [files[stem].name for stem in sorted(files.keys() - set(names) - overlays)]
    asked = names[: limit or None]
    missing = [f"{name}.png" for name in asked if name not in files]
    wrong: list[str] = []
    classes, started = len(dataset.classes), time.monotonic()
    tally = Tally(classes)
    for index, name in enumerate(asked):
        if name in files:
            said = _count(files[name], dataset, index, tally)
            wrong += [said] if said else []
        if progress is not None:
            progress(index + 1)
    _require_none(folder, missing, strange, wrong, classes)
    return Result(tally, len(asked), time.monotonic() - started)


def _require_none(
    folder: Path, missing: list[str], strange: list[str], wrong: list[str], classes: int
) -> None:
    """
    Raises:
        DataBroken: with all faults of the files.
    """
    lines = [f"{len(missing)} missing: {_some(missing, ', ')}"] if missing else []
    lines += (
        [f"{len(strange)} of no picture of this split: {_some(strange, ', ')}"] if strange else []
    )
    lines += (
        [f"{len(wrong)} that cannot be counted:\n    {_some(wrong, chr(10) + '    ')}"]
        if wrong
        else []
    )
    if lines:
        need = f"a PNG for every picture, of its size, with values 0 .. {classes - 1} wherever the label counts"
        raise DataBroken(
            "\n  ".join([f"the files of {folder} cannot be scored", *lines]), need=need
        )


def _some(lines: list[str], between: str) -> str:
    return between.join(
        [*lines[:LISTED], *([f"... and {len(lines) - LISTED} more"] if len(lines) > LISTED else [])]
    )


def _count(path: Path, dataset: Dataset, index: int, tally: Tally) -> str:
    """Count one file, or say what is wrong with it."""
    try:
        stored = read_values(path)
    except DataBroken as error:
        return f"{path.name} cannot be read: {error.got}"
    labels = dataset.read(index)[1]
    assert labels is not None
    if stored.ndim != 2 or stored.dtype.kind not in "ui":
        return f"{path.name} has {'fractions' if stored.ndim == 2 else f'{stored.shape[-1]} channels'}, not one class number a pixel"
    if stored.shape != labels.shape:
        return f"{path.name} is {stored.shape[0]}x{stored.shape[1]}, its picture {labels.shape[0]}x{labels.shape[1]}"
    odd = np.unique(stored[(labels != IGNORE) & ((stored < 0) | (stored >= tally.classes))])
    if len(odd):
        return f"{path.name} holds {', '.join(map(str, odd[:6]))}{' ...' if len(odd) > 6 else ''}"
    tally.add(torch.from_numpy(stored.astype(np.int64)), torch.from_numpy(labels.astype(np.int64)))
    return ""
