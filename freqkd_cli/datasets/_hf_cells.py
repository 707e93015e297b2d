"""Cells of a Hugging Face data set that behave like image files."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image

from freqkd_cli.datasets._hf_source import LOOSE_FILES
from freqkd_cli.errors import DataBroken

if TYPE_CHECKING:
    import datasets


class Column:
    """A column of encoded images, or of arrays of numbers ``[H, W]``.

    Args:
        rows: the split.
        name: name of the column.
        where: the split as messages name it; equal columns have equal names.
        key: the recipe key that names the column.
        folder: images that are files are read in this folder alone; None = none are read.

    Raises:
        DataBroken: the column has neither.
    """

    def __init__(
        self, rows: datasets.Dataset, name: str, where: str, key: str, folder: Path | None
    ) -> None:
        import datasets

        self.name, self.where, self.folder = name, where, folder
        alone, kind = rows.select_columns([name]), rows.features[name]
        self.is_array = array_rank(kind) == 2
        if self.is_array:
            self.rows = alone.with_format("numpy")
        elif _is_encoded(kind):
            self.rows = alone.cast_column(name, datasets.Image(decode=False))
        else:
            raise DataBroken(
                f"the column {name!r} of {where} has no images",
                got=str(kind)[:200],
                need="images (the feature Image), or arrays [H, W] of class numbers",
                tip=LOOSE_FILES,
                key=key,
            )
        files = [Path(file["filename"]) for file in rows.cache_files]
        self.changed = max((file.stat().st_mtime_ns for file in files if file.exists()), default=0)

    def __len__(self) -> int:
        return len(self.rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Column) and (self.where, self.name) == (other.where, other.name)

    def __hash__(self) -> int:
        return hash((self.where, self.name))

    def content(self, row: int) -> bytes:
        """Return an encoded image; an array becomes a file without loss.

        Raises:
            DataBroken: the row has none, or an array that is not ``[H, W]`` whole numbers.
        """
        value = self.rows[row][self.name]
        if self.is_array:
            return _encoded(_whole_numbers(value, Cell(self, row)))
        if not value or (value["bytes"] is None and value["path"] is None):
            raise DataBroken(f"cannot read {Cell(self, row)}", got="no image in this row")
        if value["bytes"] is not None:
            return value["bytes"]
        return self._file(Cell(self, row), value["path"]).read_bytes()

    def _file(self, cell: Cell, path: str) -> Path:
        """Return the file of an image that is not in the table itself.

        A table from elsewhere may name any file of this machine.

        Raises:
            DataBroken: it is not in the folder of the table.
        """
        file = Path(os.path.abspath(self.folder / path)) if self.folder else None
        if file is None or not file.is_relative_to(os.path.abspath(self.folder)):
            raise DataBroken(
                f"cannot read {cell}",
                got=f"the path {path}, without the bytes of the image",
                need=f"bytes in the table, or a file in {self.folder or 'a local data.root'}",
                tip="put the images into the table: save_to_disk, or to_parquet with Image()",
            )
        return file

    def stems(self) -> list[str]:
        """Return the stems of the files that the images were made of; numbers where not unique."""
        stems = [Path(path).stem if path else "" for path in self._paths()]
        if "" not in stems and len({*stems}) == len(stems):
            return stems
        return [f"{row:06d}" for row in range(len(self))]

    def _paths(self) -> Sequence[str | None]:
        if self.is_array or not len(self):
            return [None] * len(self)
        import pyarrow.compute

        cells = self.rows.with_format("arrow")[:].column(self.name)
        return pyarrow.compute.struct_field(cells, "path").to_pylist()


@dataclass(frozen=True)
class Cell:
    """One cell of a column, with the methods of ``pathlib.Path`` that the readers of images use."""

    column: Column
    row: int

    def __str__(self) -> str:
        return f"{self.column.where}[{self.row}].{self.column.name}"

    @property
    def name(self) -> str:
        return str(self)

    def open(self, mode: str = "rb") -> BinaryIO:
        return io.BytesIO(self.column.content(self.row))

    def stat(self) -> Any:
        """Return size and time of change; the time is that of the file with the table."""
        size, changed = len(self.column.content(self.row)), self.column.changed
        return SimpleNamespace(st_size=size, st_mtime_ns=changed, st_dev=None, st_ino=None)

    def resolve(self) -> Cell:
        return self


def array_rank(kind: Any) -> int:
    """Return the number of axes of a feature of whole numbers, 0 for other features."""
    import datasets

    if isinstance(kind, datasets.Array2D):
        return 2 if _is_whole(kind.dtype) else 0
    if isinstance(kind, datasets.List | datasets.LargeList):
        inner = array_rank(kind.feature)
        return inner + 1 if inner or _is_number(kind.feature) else 0
    return 0


def class_label_names(kind: Any) -> list[str] | None:
    """Return the names of the ``ClassLabel`` inside a feature; None where there is none."""
    import datasets

    while isinstance(kind, datasets.List | datasets.LargeList):
        kind = kind.feature
    return list(kind.names) if isinstance(kind, datasets.ClassLabel) else None


def _is_number(kind: Any) -> bool:
    import datasets

    if isinstance(kind, datasets.ClassLabel):
        return True
    return isinstance(kind, datasets.Value) and _is_whole(kind.dtype)


def _is_whole(dtype: str) -> bool:
    return dtype.lstrip("u").startswith("int")


def _is_encoded(kind: Any) -> bool:
    import datasets

    if isinstance(kind, datasets.Value):
        return kind.dtype in ("binary", "large_binary", "string", "large_string")
    return isinstance(kind, datasets.Image) or (isinstance(kind, dict) and "bytes" in kind)


def _whole_numbers(value: Any, cell: Cell) -> np.ndarray:
    """
    Raises:
        DataBroken: it is no array ``[H, W]`` of whole numbers.
    """
    values = np.asarray(value)
    if values.dtype.kind in "iu" and values.ndim == 2 and values.size:
        return values
    empty = (
        value is None or not values.size or (values.dtype.kind == "f" and np.isnan(values).all())
    )
    raise DataBroken(
        f"cannot read {cell}",
        got="no labels in this row" if empty else "rows of different lengths, or missing numbers",
        need="an array [H, W] of whole numbers",
        tip="remove this row, or save its labels again",
    )


def _encoded(values: np.ndarray) -> bytes:
    """Return numbers as a file that keeps them: PGM for uint8, else a TIFF of 32 bits."""
    small = values.dtype == np.uint8
    file = io.BytesIO()
    Image.fromarray(values if small else values.astype(np.int32)).save(
        file, "PPM" if small else "TIFF"
    )
    return file.getvalue()
