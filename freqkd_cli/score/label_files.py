"""Label PNGs as output: a pixel holds its class number, as a gray value or palette index."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from torch import Tensor

from freqkd_cli.build import assemble
from freqkd_cli.errors import DataMissing, UsageError, some
from freqkd_cli.images.dataset import SPLITS
from freqkd_cli.images.file_dataset import FileDataset
from freqkd_cli.runtime.written_files import WrittenFiles
from freqkd_cli.views.labels import IGNORE, MOST_CLASSES, void_label

if TYPE_CHECKING:
    from freqkd_cli.images.dataset import Dataset
    from freqkd_cli.recipe.sections import Recipe

OVERLAY = "_overlay"
"""What the name of an overlay adds to that of its label PNG."""


def check_class_count(classes: int) -> None:
    """
    Raises:
        UsageError: a label PNG has no room for so many classes.
    """
    if classes > MOST_CLASSES:
        raise UsageError(
            "a 16-bit label PNG has no room for so many classes",
            got=classes,
            need=f"at most {MOST_CLASSES}",
        )


def protect(option: str, targets: Iterable[Path], kept: Iterable[Path], name: str) -> None:
    """Refuse to write over the files ``kept``, by whatever path they are reached.

    Raises:
        UsageError: some of ``targets`` are among ``kept``, which the message calls ``name``.
    """
    existing = {_identity(path) for path in targets} - {None}
    lost = [str(path) for path in kept if _identity(path) in existing] if existing else []
    if lost:
        raise UsageError(f"{option} would replace {name}", got=some(lost), need="another folder")


def _identity(path: Path) -> tuple[int, int] | None:
    """The file that a path leads to, links followed; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def check_masks(
    folder: Path, dataset: Dataset, recipe: Recipe, root: Path | None, overwrite: bool
) -> None:
    """Check that the predicted labels of a split may be written to ``folder``; change nothing.

    Raises:
        UsageError: it is a file or not empty, it has files that must not be replaced, or there are
            too many classes.
    """
    check_class_count(len(dataset.classes))
    targets = [folder / f"{dataset.name(index)}.png" for index in range(len(dataset))]
    if folder.is_dir() and any(folder.iterdir()):
        files = _dataset_files(recipe, root)
        protect(f"--masks {folder}", targets, files, "files of the data set itself")
    WrittenFiles(folder).check("--masks", targets, overwrite)


def _dataset_files(recipe: Recipe, root: Path | None) -> Iterable[Path]:
    """The images and label images of every split that there is."""
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
    """A function that writes predicted labels as gray PNGs, named by the images' stems.

    Call :func:`check_masks` before.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = WrittenFiles(folder)

    def write(index: int, labels: Tensor) -> None:
        path = folder / f"{dataset.name(index)}.png"
        write_labels(written, path, labels.cpu().numpy(), len(dataset.classes))

    return write


def write_labels(
    written: WrittenFiles,
    path: Path,
    labels: np.ndarray,
    classes: int,
    palette: np.ndarray | None = None,
) -> None:
    """Write ``[H, W]`` class numbers as a PNG of 8 bits, or of 16 with more than 255 classes.

    Args:
        palette: ``[K, 3]`` uint8 RGB for indices of a palette; None for gray values. A PNG of 16
            bits has none.
    """
    small = void_label(classes) == IGNORE
    image = Image.fromarray(labels.astype(np.uint8 if small else np.uint16))
    if palette is not None and small:
        image.putpalette(palette.tobytes())
    written.write(path, lambda file: image.save(file, "PNG"))
