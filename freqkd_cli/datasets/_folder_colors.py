"""Colors of a class list as ``data.label_map``, where the masks are colored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from freqkd_cli.datasets._folder_classes import ClassList
from freqkd_cli.errors import DataBroken
from freqkd_cli.images.pairs import Pair
from freqkd_cli.images.stored_labels import StoredLabels, count_values, pack, read_labels
from freqkd_cli.views.labels import void_label

_MASKS = 16
"""Masks that are read at most: one class alone does not show whether grey means a color."""


def color_map(classes: ClassList, pairs: Sequence[Pair]) -> dict[str, int] | None:
    """Return ``label_map`` by the colors of the list, None where the masks are values.

    It applies if the list has a color of its own for every class, and the first mask has no
    other color. A mask with a palette is read by color where its palette has another order.
    """
    values = {**classes.names, **classes.ignored}
    table = {pack(color): number for number, color in classes.colors.items()}
    if not classes.names or len(table) < len(values) or not set(values) <= set(table.values()):
        return None
    stored = _first_varied([pair.label for pair in pairs if pair.label is not None])
    if stored is None:
        return None
    counts = count_values(stored.values)
    if stored.rgb:
        by_color = set(counts) <= set(table)
    elif stored.grey_rgb:
        by_color = {0x010101 * int(value) for value in counts} <= set(table)
    else:
        colors = {value: stored.palette.get(value) for value in counts}
        listed = {number: color for color, number in table.items()}
        by_color = set(colors.values()) <= set(table) and any(
            color != listed.get(value) for value, color in colors.items()
        )
    if not by_color:
        return None
    void = void_label(len(classes.names))
    return {
        f"#{color:06x}": void if number in classes.ignored else number
        for color, number in table.items()
    }


def _first_varied(labels: Sequence[Path]) -> StoredLabels | None:
    """Return the first mask, or of grey RGB masks the first with several values."""
    first = None
    for path in labels[:_MASKS]:
        try:
            stored = read_labels(path)
        except DataBroken:
            return None
        first = first or stored
        if not stored.grey_rgb or np.ptp(stored.values) > 0:
            return stored
    return first
