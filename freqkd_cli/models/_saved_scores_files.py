"""A folder of saved arrays, one for each image."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from freqkd_cli.errors import DataBroken, DataMissing, WeightsMissing, quoted, some
from freqkd_cli.images.dataset import Dataset
from freqkd_cli.images.decode import digest
from freqkd_cli.images.held_out import same_images
from freqkd_cli.images.pairs import stems
from freqkd_cli.images.pool import POOL_IMAGE, WithPool
from freqkd_cli.models._log_scores import VERSION
from freqkd_cli.runtime import file_hashes
from freqkd_cli.views.loader import ViewDataset
from freqkd_cli.views.view import View

SUFFIXES = (".npy", ".npz", ".safetensors")


class SavedFiles:
    """The arrays of a folder by stem. Copies of a model share it.

    Attributes:
        classes: C of the first file.

    Raises:
        WeightsMissing: there is no such folder, or no file in it.
        DataBroken: the first file is no array of three axes, or two files have the same stem.
    """

    def __init__(self, root: str, layout: Literal["chw", "hwc"]) -> None:
        self.root, self.layout = Path(root).expanduser(), layout
        self.views: ViewDataset | None = None
        if not self.root.is_dir():
            raise WeightsMissing(
                f"there is no folder {self.root}", need="saved outputs of a teacher", key="root"
            )
        self.paths = stems(self.root, SUFFIXES)
        if not self.paths:
            raise WeightsMissing(
                f"no saved outputs in {self.root}",
                need=f"files ending in {' '.join(SUFFIXES)}, named like the images",
                key="root",
            )
        self.classes = 0
        self.classes = self.read(next(iter(self.paths))).shape[0]

    def __deepcopy__(self, memo: dict[int, Any]) -> SavedFiles:
        return self

    def show(self, views: ViewDataset) -> None:
        """Keep the views of the images, after a check that each image has a file of its own.

        Raises:
            DataMissing: some have none, or that of another image.
        """
        self.views = views
        _check_names_of_pool(views.images)
        missing = [
            stem for index in range(len(views)) if (stem := self._stem(index)) not in self.paths
        ]
        if missing:
            raise DataMissing(
                f"{len(missing)} of {len(views)} images have no saved outputs in {self.root}",
                got=f"none for {some(missing)}",
                need=f"a file with the stem of the image, ending in {' '.join(SUFFIXES)}",
                key="root",
            )

    def view(self, index: int, number: int) -> tuple[str, tuple[int, int], View]:
        """Return the stem of an image, its size, and one of its views."""
        assert self.views is not None
        size = self.views.images.image_size(index)
        return self._stem(index), size, self.views.view((index, number))

    def read(self, stem: str) -> np.ndarray:
        """Return the array of an image, ``[C, h, w]``; that of a ``.npy`` is a memory map.

        Raises:
            DataBroken: it cannot be read, or has another shape.
        """
        path = self.paths[stem]
        try:
            values = _stored(path)
        except Exception as error:  # damaged files let the libraries raise errors of many types
            raise DataBroken(f"cannot read {path}", got=quoted(error)) from error
        if values.ndim == 3 and self.layout == "hwc":
            values = values.transpose(2, 0, 1)
        fits = values.ndim == 3 and values.dtype.kind in "uif" and values.shape[0] > 1
        if not fits or self.classes not in (0, values.shape[0]):
            raise DataBroken(
                f"{path} is not an array of class scores",
                got=f"{values.dtype} {list(values.shape)}",
                need=f"an array [{self.classes or 'C'}, h, w]",
                tip="--set 'teacher.layout=hwc' if the classes are the last axis",
            )
        return values

    def sha256(self) -> bytes:
        """Return a hash of the names and contents of all files, each read once and remembered.

        Raises:
            DataBroken: a file cannot be read.
        """
        total = hashlib.sha256(self.layout.encode() + VERSION)
        for path in self.paths.values():
            for part in (path.name, *digest(path)):
                total.update(os.fsencode(part) + b"\0")
        file_hashes.keep_new()
        return total.digest()

    def _stem(self, index: int) -> str:
        assert self.views is not None
        return self.views.images.name(index).removeprefix(POOL_IMAGE)


def _check_names_of_pool(images: Dataset) -> None:
    """
    Raises:
        DataMissing: an image of the pool has the name of another, labelled image.
    """
    if not isinstance(images, WithPool):
        return
    own = {images.dataset.name(number) for number in range(len(images.dataset))}
    names = dict(enumerate(map(images.pool.name, range(len(images.pool)))))
    if own.isdisjoint(names.values()):
        return
    same = same_images(images.pool, images.dataset)
    doubled = [name for number, name in names.items() if name in own and number not in same]
    if doubled:
        raise DataMissing(
            f"{len(doubled)} images of the pool have the name of another, labelled image",
            got=some(doubled),
            need="names of their own, since the name of an image finds its saved outputs",
            tip="rename these images of the pool, and their saved outputs",
            key="root",
        )


def _stored(path: Path) -> np.ndarray:
    """Return the only array of a file, or the one called probabilities or logits."""
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return np.load(path, mmap_mode="r", allow_pickle=False)
    if suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[_name(list(arrays.files))]
    from safetensors import safe_open

    with safe_open(path, "pt") as tensors:
        tensor = tensors.get_tensor(_name(list(tensors.keys())))
    wide = tensor.is_floating_point() and tensor.dtype != torch.float16
    return (tensor.float() if wide else tensor).numpy()


def _name(names: list[str]) -> str:
    for name in ("probabilities", "logits"):
        if name in names:
            return name
    if len(names) != 1:
        raise ValueError(f"{len(names)} arrays, need one, or one called probabilities or logits")
    return names[0]
