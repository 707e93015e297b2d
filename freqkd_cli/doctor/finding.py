"""``Finding``: one problem of label images, its files and its fix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from freqkd_cli.errors import DataBroken, some
from freqkd_cli.images.file_dataset import FileDataset

Level = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One problem, in the four parts of an error. ``files`` lists the label images that have it."""

    level: Level
    what: str
    files: tuple[str, ...]
    got: str | None = None
    need: str | None = None
    tip: str | None = None

    def error(self) -> DataBroken:
        return DataBroken(self.what, got=self.got, need=self.need, tip=self.tip)


def unreadable(errors: Sequence[DataBroken]) -> Finding:
    """Return the finding of files that cannot be read: the first error, and how many more."""
    first, *more = errors
    rest = f" (and {len(more)} more file{'s' * (len(more) > 1)})" if more else ""
    return Finding("error", first.what, (), f"{first.got}{rest}", first.need, first.tip)


def finding_about(
    dataset: FileDataset,
    level: Level,
    indices: Iterable[int],
    *,
    one: str,
    many: str,
    **parts: Any,
) -> Finding:
    """Return a finding about the label images of these images.

    ``one`` and ``many`` are the verb phrases for a single file and for several.
    """
    files = tuple(str(dataset.pairs[index].label) for index in sorted(indices))
    what = f"{files[0]} {one}"
    if len(files) != 1:
        what = f"{len(files)} label images {many}: {some(files)}"
    return Finding(level, what, files, **parts)
