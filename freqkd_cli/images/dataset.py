"""What every data set is. One file of this drawer is one data set; it offers ``build(...) -> Dataset`` and ``classes(...)``."""

from __future__ import annotations

from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

Split = Literal["train", "val", "test"]

SPLITS: tuple[Split, ...] = ("train", "val", "test")
"""Every data set offers these three; no image is in two of them."""


@runtime_checkable
class Dataset(Protocol):
    """One split: pictures by number, without augmentation.

    Attributes:
        classes: names in the order of the train ids.
        palette: ``[K, 3]`` uint8 RGB, one colour per class.
        labelled: False when ``read`` gives no labels.
    """

    classes: tuple[str, ...]
    palette: np.ndarray
    labelled: bool

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Stem, unique in the split; the file name of a written mask."""
        ...

    def image_size(self, index: int) -> tuple[int, int]:
        """(H, W) in pixels, found without decoding the picture."""
        ...

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Image ``[H, W, 3]`` uint8 RGB, upright, and labels ``[H, W]`` uint8 (train ids, 255 = ignore) or None.

        Raises:
            DataBroken: the file cannot be read or its labels are outside the classes; the message names the file.
        """
        ...

    def manifest(self) -> dict[str, Any]:
        """What identifies the split, as JSON: name, split, arguments, number of images, and a hash or a generator's version."""
        ...
