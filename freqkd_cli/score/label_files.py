"""Label PNGs that are written: where they may go, and how. A pixel holds the number of its class, as a grey value or as a palette index."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from torch import Tensor

from freqkd_cli.build import assemble
from freqkd_cli.errors import DataMissing, UsageError
from freqkd_cli.images.dataset import SPLITS
from freqkd_cli.images.file_dataset import FileDataset
from freqkd_cli.images.pairs import some
from freqkd_cli.runtime.files import write_aside

if TYPE_CHECKING:
    from freqkd_cli.images.dataset import Dataset
    from freqkd_cli.recipe.sections import Recipe

MOST_CLASSES = 255
"""What fits in an 8-bit PNG beside the value 255, which means void everywhere."""
OVERLAY = "_overlay"
"""What the name of a picture's overlay has after that of its label PNG."""


def require_room(classes: int) -> None:
    """
    Raises:
        UsageError: a label PNG has no numbers for so many classes.
    """
    if classes > MOST_CLASSES:
        raise UsageError(
            "a label PNG has no room for so many classes",
            got=classes,
            need=f"at most {MOST_CLASSES}",
        )


def require_free(option: str, folder: Path, overwrite: bool) -> None:
    """
    Raises:
        UsageError: the folder is a file, or it holds something and nobody said that it may be replaced.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{option} {folder} is a file", need="a folder")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        tip = "--overwrite, which replaces files of the same names and leaves others alone"
        raise UsageError(
            f"{option} {folder} is not empty", need="a new or an empty folder", tip=tip
        )


def spare(option: str, targets: Iterable[Path], kept: Iterable[Path], what: str) -> None:
    """Refuse to write over files that were given to be read, under whatever name they are reached.

    Raises:
        UsageError: some of ``targets`` are among ``kept``; ``what`` says which those are.
    """
    here = {_identity(path) for path in targets} - {None}
    lost = [str(path) for path in kept if _identity(path) in here] if here else []
    if lost:
        raise UsageError(f"{option} would replace {what}", got=some(lost), need="another folder")


def _identity(path: Path) -> tuple[int, int] | None:
    """The file that a path leads to, links followed; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def check_masks(
    folder: Path, dataset: Dataset, recipe: Recipe, root: Path | None, overwrite: bool
) -> None:
    """Whether the predicted labels of a split may be written to ``folder``; nothing is changed.

    Raises:
        UsageError: it is a file or not empty, or it holds files of the data set itself, which are never replaced; too many classes.
    """
    require_room(len(dataset.classes))
    if folder.is_dir() and any(folder.iterdir()):
        targets = (folder / f"{dataset.name(index)}.png" for index in range(len(dataset)))
        spare(
            f"--masks {folder}", targets, _own_files(recipe, root), "files of the data set itself"
        )
    require_free("--masks", folder, overwrite)


def _own_files(recipe: Recipe, root: Path | None) -> Iterable[Path]:
    """The pictures and label images of every split that there is."""
    for split in SPLITS:
        try:
            dataset = assemble.build_dataset(recipe, split, root)
        except DataMissing:
            continue
        for pair in dataset.pairs if isinstance(dataset, FileDataset) else ():
            yield pair.image
            if pair.label is not None:
                yield pair.label


def mask_writer(folder: Path, dataset: Dataset) -> Callable[[int, Tensor], None]:
    """Writes predicted labels as grey PNGs named after the images' stems; :func:`check_masks` says whether it may."""
    folder.mkdir(parents=True, exist_ok=True)
    return lambda index, labels: write_labels(
        folder / f"{dataset.name(index)}.png", labels.numpy().astype(np.uint8)
    )


def write_labels(path: Path, labels: np.ndarray, palette: np.ndarray | None = None) -> None:
    """Write ``[H, W]`` uint8 class numbers as a PNG: grey values, or indices of ``palette``, ``[K, 3]`` uint8 RGB."""
    picture = Image.fromarray(labels)
    if palette is not None:
        picture.putpalette(palette.tobytes())
    write_aside(path, lambda file: picture.save(file, "PNG"))
