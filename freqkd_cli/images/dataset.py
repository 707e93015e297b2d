"""The protocol of a data set: one split of images with their labels.

A file of the drawer ``datasets/`` is one data set. It offers ``build(...) -> Dataset``,
``classes(...)`` and ``LAYOUT``, the folder layout that it reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

Split = Literal["train", "val", "test"]

SPLITS: tuple[Split, ...] = ("train", "val", "test")
"""The splits of every data set. No image is in two of them."""


@runtime_checkable
class Dataset(Protocol):
    """One split: images by number, without augmentation.

    With a method ``origin(index) -> Origin``, too, its images take part in ``data.keep``. With an
    attribute ``labelled_images``, only that number of images, the first ones, have labels.

    Attributes:
        classes: names in the order of the train ids.
        palette: ``[K, 3]`` uint8 RGB, one color per class.
        labelled: False when ``read`` returns no labels.
    """

    classes: tuple[str, ...]
    palette: np.ndarray
    labelled: bool

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Return the stem, unique in the split: the file name of a written mask."""
        ...

    def image_size(self, index: int) -> tuple[int, int]:
        """Return (H, W) in pixels without decoding the image."""
        ...

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the upright image and its labels.

        The image is ``[H, W, 3]`` uint8 RGB. Labels are ``[H, W]`` uint8 (train ids, 255 =
        ignore), or None.

        Raises:
            DataBroken: the file cannot be read or its labels are outside the classes; the
                message names the file.
        """
        ...

    def manifest(self) -> dict[str, Any]:
        """Return what identifies the split, as JSON.

        Keys: name, split, arguments, number of images, and a hash or a generator's version. The
        hash depends on the order of the images, since caches store rows by number.
        """
        ...


@dataclass(frozen=True)
class Origin:
    """What the pixels and labels of one image are made from, for ``data.keep``.

    Attributes:
        place: files, settings or numbers that name the image, as JSON.
        state: size and time stamp of its files, as JSON.
        labelled: it has labels.
    """

    place: Any
    state: Any = None
    labelled: bool = True

    def without_labels(self) -> Origin:
        """Return the origin of the image alone."""
        return Origin(["without labels", self.place], self.state, labelled=False)


def origin_of(dataset: Dataset, index: int) -> Origin | None:
    """Return ``dataset.origin(index)``; None where a data set has no such method, or no file."""
    origin = getattr(dataset, "origin", None)
    try:
        return origin(index) if origin else None
    except OSError:
        return None


def spread(length: int, number: int) -> list[int]:
    """Return at most ``number`` indices below ``length``, evenly spread, first and last included.

    A single index is 0.
    """
    if not length:
        return []
    places = np.linspace(0, length - 1, min(number, length)).round().astype(int)
    return np.unique(places).tolist()
