"""Colors of a class list as ``data.label_map``, where the masks are colored."""

from __future__ import annotations

from collections.abc import Sequence

from freqkd_cli.datasets._folder_classes import ClassList
from freqkd_cli.errors import DataBroken
from freqkd_cli.images.pairs import Pair
from freqkd_cli.images.stored_labels import count_values, pack, read_labels
from freqkd_cli.views.labels import IGNORE


def color_map(classes: ClassList, pairs: Sequence[Pair]) -> dict[str, int] | None:
    """Return ``label_map`` by the colors of the list, None where the masks are values.

    It applies if the list has a color of its own for every class, and the first mask has no
    other color. A mask with a palette is read by color where its palette has another order.
    """
    values = {**classes.names, **classes.ignored}
    table = {pack(color): number for number, color in classes.colors.items()}
    if not classes.names or len(table) < len(values) or not set(values) <= set(table.values()):
        return None
    label = next((pair.label for pair in pairs if pair.label is not None), None)
    if label is None:
        return None
    try:
        stored = read_labels(label)
    except DataBroken:
        return None
    if stored.rgb:
        by_color = set(count_values(stored.values)) <= set(table)
    else:
        colors = {value: stored.palette.get(value) for value in count_values(stored.values)}
        listed = {number: color for color, number in table.items()}
        by_color = set(colors.values()) <= set(table) and any(
            color != listed.get(value) for value, color in colors.items()
        )
    if not by_color:
        return None
    return {
        f"#{color:06x}": IGNORE if number in classes.ignored else number
        for color, number in table.items()
    }
