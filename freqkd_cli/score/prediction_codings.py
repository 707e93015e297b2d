"""How the label PNGs of other programs are read as train ids, and which other reading fits them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from freqkd_cli.errors import DataBroken, UsageError, some
from freqkd_cli.images.file_dataset import FileDataset
from freqkd_cli.images.label_rules import LabelRule, color_rule
from freqkd_cli.images.stored_labels import pack, read_labels, read_values
from freqkd_cli.views.labels import void_label

if TYPE_CHECKING:
    from freqkd_cli.images.dataset import Dataset

log = logging.getLogger(__name__)

Coding = Literal["train-ids", "masks", "colors"]
"""What a pixel of a prediction holds: a class number, what the data set's masks hold for that
class, or the color of the class in the data set's palette."""
TRAIN_IDS: Coding = "train-ids"
LISTED = 6
"""Values that the message about a file lists."""


class Unfit(Exception):
    """A file that a coding cannot read; the text is for people."""


@dataclass(frozen=True)
class Reader:
    """Reads files in one coding.

    Attributes:
        classes: K.
        rule: how stored values become train ids; None where they are train ids.
        need: the allowed values, in words.
    """

    coding: Coding
    classes: int
    rule: LabelRule | None
    need: str

    def read(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Return stored values and train ids, ``[H, W]`` each.

        Train ids outside 0 .. K - 1 stand for values that belong to no class.

        Raises:
            Unfit: the file does not hold one value per pixel.
            DataBroken: it cannot be read.
        """
        if self.rule is None:
            stored = read_values(path)
            if stored.ndim != 2 or stored.dtype.kind not in "ui":
                values = "fractions" if stored.ndim == 2 else f"{stored.shape[-1]} channels"
                raise Unfit(f"has {values}, not one class number per pixel")
            return stored, stored.astype(np.int64)
        labels = read_labels(path, white=self.rule.white)
        if self.rule.colors is not None:
            if not (labels.rgb or labels.grey_rgb or labels.palette):
                raise Unfit("has no colors")
            labels = read_labels(path, colors=True)
        elif labels.rgb:
            raise Unfit("has colors, not one value per pixel")
        return labels.values, self.rule.ids(labels.values).astype(np.int64)

    def format(self, values: np.ndarray) -> str:
        """Return stored values as a message lists them."""
        if self.rule is not None:
            return self.rule.format(values.tolist())
        return some(values.tolist(), LISTED)


def readers_of(dataset: Dataset) -> dict[Coding, Reader]:
    """The codings that the predictions of a data set may have."""
    classes = len(dataset.classes)
    readers = {TRAIN_IDS: Reader(TRAIN_IDS, classes, None, f"values 0 .. {classes - 1}")}
    if isinstance(dataset, FileDataset):
        need = "values that the masks have for a class"
        readers["masks"] = Reader("masks", classes, dataset.rule, need)
    colors = {pack(color): number for number, color in enumerate(dataset.palette)}
    if len(colors) == classes:
        rule = color_rule(colors, "")
        readers["colors"] = Reader("colors", classes, rule, rule.need)
    return readers


class Readings:
    """Reads files in one coding, and keeps the other codings that fit all files so far.

    Raises:
        UsageError: the data set has no such coding.
    """

    def __init__(self, dataset: Dataset, coding: Coding) -> None:
        self.others: Mapping[Coding, Reader] = readers_of(dataset)
        if coding not in self.others:
            raise UsageError(
                f"the data set has no coding {coding}",
                need=" or ".join(f"--coding {name}" for name in self.others),
                key="coding",
            )
        self.reader = self.others[coding]
        self.void = void_label(len(dataset.classes))
        self.others = {name: other for name, other in self.others.items() if name != coding}
        self.classes: dict[Coding, set[int]] = {name: set() for name in (coding, *self.others)}
        self.different: set[Coding] = set()
        self.files = 0

    def read(self, path: Path, labels: np.ndarray) -> np.ndarray:
        """Return the train ids of a file that is scored against ``labels``.

        Raises:
            Unfit: with what is wrong with the file.
        """
        counted = labels != self.void
        try:
            ids, problem = self._ids(self.reader, path, labels.shape, counted), None
        except Unfit as error:
            ids, problem = None, error
        fitting = {}
        for name, other in self.others.items():
            try:
                other_ids = self._ids(other, path, labels.shape, counted)
            except Unfit:
                continue
            fitting[name] = other
            if ids is not None and (ids != other_ids)[counted].any():
                self.different.add(name)
        self.others, self.files = fitting, self.files + 1
        if problem is not None:
            raise problem
        assert ids is not None
        return ids

    def _ids(
        self, reader: Reader, path: Path, size: tuple[int, ...], counted: np.ndarray
    ) -> np.ndarray:
        try:
            stored, ids = reader.read(path)
        except DataBroken as error:
            raise Unfit(f"cannot be read: {error.got}") from error
        if ids.shape != size:
            sizes = ("x".join(map(str, shape)) for shape in (ids.shape, size))
            raise Unfit("is {}, but its image is {}".format(*sizes))
        outside = np.unique(stored[counted & ((ids < 0) | (ids >= reader.classes))])
        if len(outside):
            raise Unfit(f"holds {reader.format(outside)}")
        self.classes[reader.coding].update(np.unique(ids[counted]).tolist())
        return ids

    @property
    def tip(self) -> str | None:
        """The codings that fit every file, as options; None where there is none."""
        options = [f"--coding {name}" for name in self.others] if self.files else []
        return f"{', or '.join(options)}: it fits every file" if options else None

    def warn_if_ambiguous(self) -> None:
        """Warn where another coding fits every file, and reads other classes, but not fewer.

        A range of values that is one class would fit any class numbers.
        """
        most = len(self.classes[self.reader.coding])
        plausible = {name for name in self.others if len(self.classes[name]) >= most}
        for name in sorted(plausible & self.different):
            log.warning(
                "the predictions also fit --coding %s, with other classes; "
                "they were read with --coding %s",
                name,
                self.reader.coding,
            )
