"""Rows of a cache as they are stored, and its size: what dumping, merging and pruning share."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor

from freqkd_cli.cache.index_file import Item
from freqkd_cli.cache.reader import CacheReader

Columns = dict[str, list[Tensor]]
"""Stored part -> one row per item."""


def stored_columns(reader: CacheReader, items: Sequence[Item], names: Collection[str]) -> Columns:
    """Return the stored rows of some tensors of a cache."""
    rows: Columns = {}
    for item in items:  # one by one: whole images differ in size
        for part, row in reader.stored([item], names).items():
            rows.setdefault(part, []).append(row[0])
    return rows


def complex_names(reader: CacheReader) -> set[str]:
    """Return the names of the tensors of complex numbers."""
    return {name for name, tensor in reader.index.tensors.items() if tensor.complex}


def summary(reader: CacheReader) -> dict[str, Any]:
    """Return the size and the content of a cache."""
    return {
        "cache": str(reader.folder),
        "items": len(reader),
        "views": len({view for _, view in reader.items}),
        "bytes": reader.bytes,
        "taps": list(reader.names),
    }
