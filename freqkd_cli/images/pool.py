"""Images without labels beside labelled ones: ``data.pool``.

A pool is any data set, read without its labels. With the labelled images it forms one data set
with one numbering: the labelled images are 0 .. n - 1, as without a pool, and those of the pool
follow. So everything that names an image by its number (the key of a view, a row of a cache, a
batch) needs no second name, and a cache with the pool also serves a recipe without it.

- ``views/pool_share.py`` draws batches of both kinds from (seed, step).
- Labels of a pool image are void everywhere, and ``Batch.from_pool`` marks its row. Losses that
  read labels divide by labelled pixels or images, so they do not see it. All other losses do. Graph
  losses leave out void nodes, but count every node of an image that has no labels at all.
- The same holds for images without labels of a data set of which a part is labelled
  (``data.labelled``).
- A cache's fingerprint has the manifest of the pool beside that of the data.
- ``build/training_images.py`` makes the pool of a recipe. Validation, ``eval`` and class weights
  use labelled images alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from freqkd_cli.images.dataset import Dataset, Origin, origin_of
from freqkd_cli.images.file_dataset import FileDataset
from freqkd_cli.images.held_out import labelled_images

POOL_IMAGE = "pool image "
"""Start of the names of a pool's images."""


class WithPool:
    """The images of a data set, then those of a pool; implements ``Dataset``.

    Args:
        dataset: the labelled images; classes, palette and manifest are its own.
        pool: the images without labels.
    """

    def __init__(self, dataset: Dataset, pool: Dataset) -> None:
        self.dataset, self.pool = dataset, pool
        self.classes, self.palette = dataset.classes, dataset.palette
        self.labelled = dataset.labelled

    def __len__(self) -> int:
        return len(self.dataset) + len(self.pool)

    def name(self, index: int) -> str:
        own = index < len(self.dataset)
        dataset, number = self._at(index)
        return dataset.name(number) if own else f"{POOL_IMAGE}{dataset.name(number)}"

    def image_size(self, index: int) -> tuple[int, int]:
        dataset, number = self._at(index)
        return dataset.image_size(number)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        dataset, number = self._at(index)
        return dataset.read(number)

    def origin(self, index: int) -> Origin | None:
        return origin_of(*self._at(index))

    @property
    def labelled_images(self) -> int:
        return labelled_images(self.dataset)

    def manifest(self) -> dict[str, Any]:
        """Return the manifest of the data set alone; :func:`manifest_of_pool` is that of the pool.

        So the fields of a cache without a pool stay as they are.
        """
        return self.dataset.manifest()

    def _at(self, index: int) -> tuple[Dataset, int]:
        own = len(self.dataset)
        return (self.dataset, index) if index < own else (self.pool, index - own)


class _Unlabelled:
    """A data set without its labels; implements ``Dataset``."""

    labelled = False

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.classes, self.palette = dataset.classes, dataset.palette
        self.name, self.image_size = dataset.name, dataset.image_size
        self.manifest = dataset.manifest

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int) -> tuple[np.ndarray, None]:
        return self.dataset.read(index)[0], None

    def origin(self, index: int) -> Origin | None:
        origin = origin_of(self.dataset, index)
        return origin and origin.without_labels()


def without_labels(dataset: Dataset) -> Dataset:
    """Return the images of a data set alone; label files are never opened, nor in its manifest."""
    return dataset.images_alone() if isinstance(dataset, FileDataset) else _Unlabelled(dataset)


def partly_labelled(images: Dataset) -> bool:
    """Return whether single images of the data set have no labels; a pool beside it is not one."""
    own = images.dataset if isinstance(images, WithPool) else images
    return 0 < labelled_images(own) < len(own)


def manifest_of_pool(images: Dataset) -> dict[str, Any] | None:
    """Return what identifies the pool of training images; None where they have none."""
    return images.pool.manifest() if isinstance(images, WithPool) else None
