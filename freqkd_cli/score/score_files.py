"""Scores of label PNGs that any program wrote for the images of a split."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from freqkd_cli.errors import DataBroken, DataMissing, some
from freqkd_cli.score.evaluate import Result, check_labelled
from freqkd_cli.score.label_files import OVERLAY
from freqkd_cli.score.prediction_codings import TRAIN_IDS, Coding, Readings, Unfit
from freqkd_cli.score.tally import Tally, without_probabilities

if TYPE_CHECKING:
    from freqkd_cli.images.dataset import Dataset

LISTED = 12
"""Files of one kind of problem that a message lists; the others are counted."""


def score_files(
    folder: Path,
    dataset: Dataset,
    *,
    coding: Coding = TRAIN_IDS,
    limit: int = 0,
    metrics: Sequence[str] = (),
    progress: Callable[[int], None] | None = None,
) -> Result:
    """Score the PNGs of ``folder`` and its subfolders, one per image and named by its stem.

    The overlays that ``freqkd predict`` writes beside its label PNGs are skipped.

    Args:
        coding: what the pixels hold. Where all files fit another coding with other classes, that is
            a warning.
        limit: only the first images of the split, 0 = all; files of the others are ignored.
        metrics: requested metrics, see :class:`Tally`.
        progress: called with the number of images that are done.

    Raises:
        DataMissing: there is no such folder, or no PNG in it.
        UsageError: the split has no labels, the data set has no such coding, or a requested metric
            needs probabilities.
        DataBroken: files are missing, belong to no image, cannot be read, have another size, or
            hold a value that is no class where the label counts; all of them in one message.
    """
    check_labelled(dataset)
    requested = without_probabilities(
        metrics, "label images", "score the run without --predictions"
    )
    tally = Tally(len(dataset.classes), requested=requested)
    readings = Readings(dataset, coding)
    files, repeated = _files(folder, dataset)
    names = [dataset.name(index) for index in range(len(dataset))]
    overlays = {f"{stem}{OVERLAY}" for stem in files}
    unknown = [files[stem].name for stem in sorted(files.keys() - set(names) - overlays)]
    scored = names[: limit or None]
    missing = [f"{name}.png" for name in scored if name not in files]
    wrong: list[str] = []
    started = time.monotonic()
    for index, name in enumerate(scored):
        labels = dataset.read(index)[1] if name in files else None
        if labels is not None:  # single images of a labelled split may have none
            try:
                ids = readings.read(files[name], labels)
                tally.add(torch.from_numpy(ids), torch.from_numpy(labels.astype(np.int64)))
            except Unfit as error:
                wrong.append(f"{files[name].name} {error}")
        if progress is not None:
            progress(index + 1)
    _require_none(folder, missing, unknown, repeated, wrong, readings)
    readings.warn_if_ambiguous()
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
    readings: Readings,
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
    lines = [
        f"{len(names)} {kind}: {some(names, LISTED)}" for kind, names in kinds.items() if names
    ]
    if wrong:
        below = "\n    "
        lines.append(f"{len(wrong)} that cannot be counted:{below}{some(wrong, LISTED, below)}")
    if lines:
        values = f"{readings.reader.need} wherever the label counts"
        raise DataBroken(
            "\n  ".join([f"the files of {folder} cannot be scored", *lines]),
            need=f"a PNG for every image, of its size, with {values}",
            tip=readings.tip if wrong else None,
            key="predictions",
        )
