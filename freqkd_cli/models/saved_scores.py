"""A teacher whose outputs another tool has saved: one file per training image.

``root`` holds a file for each image, with the image's stem: ``.npy``, ``.npz`` or ``.safetensors``
with one array ``[C, h, w]`` of the whole image, at any resolution. Its values are probabilities, or
logits with ``scores: logits``. Whole numbers count as shares of the largest number of their type,
so 255 of uint8 is 1.

The target of a view is cut from the file of its image: zoom, crop and mirroring are those of the
view. Changes of color do not reach these outputs, and no hidden part of ``data.augment.isolate``.
The only tap is ``logits``. Nothing is known about other images, so this teacher is not scored.

All files are read once for their hash, which is remembered, and then in each step. ``freqkd
teacher-dump`` stores the views, which is faster.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from freqkd_cli.errors import DataBroken, FreqKDError
from freqkd_cli.features.segmenter import Segmenter
from freqkd_cli.features.taps import Tap
from freqkd_cli.models._log_scores import ROUNDING, log_of_probabilities
from freqkd_cli.models._saved_scores_files import SavedFiles
from freqkd_cli.views.batch import Batch
from freqkd_cli.views.loader import ViewDataset
from freqkd_cli.views.map_cut import cut_map

TEACHER_ONLY = True
"""A recipe cannot name it as a student."""

READS_IMAGES = False
"""It has outputs for the images of its folder alone."""

Stride = Annotated[int, Field(gt=0)]


def build(
    *,
    classes: int,
    root: str,
    scores: Literal["probabilities", "logits"] = "probabilities",
    layout: Literal["chw", "hwc"] = "chw",
    stride: Stride = 4,
) -> SavedTeacher:
    """Open a folder of saved outputs.

    Args:
        classes: not used; the files decide it.
        root: the folder.
        scores: what the files hold.
        layout: order of the axes in the files.
        stride: image pixels per cell of the logits that are cut for a view.

    Raises:
        WeightsMissing: there is no such folder, or no file in it.
        DataBroken: the first file is no array of three axes, or a file cannot be read.
    """
    files = SavedFiles(root, layout)
    arguments = {"root": root, "scores": scores, "layout": layout, "stride": stride}
    return SavedTeacher(files, arguments)


def taps(
    *,
    classes: int,
    root: str,
    scores: Literal["probabilities", "logits"] = "probabilities",
    layout: Literal["chw", "hwc"] = "chw",
    stride: Stride = 4,
) -> tuple[Tap]:
    """Return the tap ``logits``; its channels are those of the first file where there is one."""
    known = Path(root).expanduser().is_dir()
    channels = SavedFiles(root, layout).classes if known else classes
    return (Tap("logits", stride, channels, "logits"),)


class SavedTeacher(Segmenter):
    """Saved outputs, cut to views; see the module's docstring."""

    def __init__(self, files: SavedFiles, arguments: dict[str, Any]) -> None:
        super().__init__(classes=files.classes, arguments=arguments, tap_names=["logits"])
        self.files, self.keys = files, arguments
        # The hash stands for the weights in the fingerprint of a cache.
        self.register_buffer("sha256", torch.tensor(list(files.sha256()), dtype=torch.uint8))
        # The folder may be elsewhere on another machine.
        self.recipe_arguments.pop("root")
        self.set_normalisation([0.0] * 3, [1.0] * 3)
        self.eval()

    def show(self, views: ViewDataset) -> None:
        """Take the views that :meth:`of_batch` will get.

        Raises:
            DataMissing: images without a file.
        """
        self.files.show(views)

    def of_batch(self, batch: Batch) -> dict[str, Tensor]:
        """Return the logits of the views of a batch, ``[B, C, h, w]``.

        Raises:
            DataBroken: a file that cannot be read, or of another number of classes.
        """
        grid = tuple(-(-side // self.keys["stride"]) for side in batch.images.shape[-2:])
        rows = [self._row(index, view, grid) for index, view in batch.items]
        return {"logits": torch.stack(rows).to(batch.images.device)}

    def _row(self, index: int, number: int, grid: tuple[int, ...]) -> Tensor:
        stem, size, view = self.files.view(index, number)
        stored = self.files.read(stem)
        values = cut_map(view, size, stored, (grid[0], grid[1]))
        if not bool(values.isfinite().all()):
            raise DataBroken(f"{self.files.paths[stem]} contains values that are not finite")
        if self.keys["scores"] == "logits":
            return values
        whole = stored.dtype.kind in "ui"
        if whole:
            values = values / float(np.iinfo(stored.dtype).max)
        elif float(values.min()) < -ROUNDING or float(values.max()) > 1 + ROUNDING:
            raise DataBroken(
                f"{self.files.paths[stem]} contains no probabilities",
                got=f"values from {float(values.min()):.3g} to {float(values.max()):.3g}",
                need="values from 0 to 1",
                tip="--set teacher.scores=logits",
            )
        return log_of_probabilities(values, bits=16 if whole else 8 * stored.dtype.itemsize)

    def forward(self, images: Tensor, taps: Collection[str] = ()) -> dict[str, Tensor]:
        raise FreqKDError(
            "saved outputs belong to images of the training split, and no network runs on others",
            need="a teacher with weights",
            tip="freqkd eval RECIPE --predictions DIR scores saved labels",
            key="name",
        )

    def run(self, images: Tensor, taps: frozenset[str]) -> dict[str, Tensor]:
        return self.forward(images)
