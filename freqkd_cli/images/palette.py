"""Colors of classes, distinguishable with normal and with color-deficient vision."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence

import numpy as np

from freqkd_cli.errors import UsageError, some

_DISTINCT = """
    aa7de6 e6f514 7d6e23 1414f5 9b7d8c d7e68c 41326e 4123aa 414123 aaaa14 b9c8f5 9bc89b 414150
    7d5ff5 8c6eaa 8c7d5f e6e65f 5050aa 9baa5f aac8c8 c8f5b9 2332d7 505f50 6e5f7d b98cb9 505014
    9b8c23 b9b950 b98cd7 aad714 7d5fd7 b99b9b
"""
"""Chosen one by one from an RGB grid, each as far as possible from black, white and those before.

The distance is the smallest of three: in CIELAB as seen normally, and after simulated deuteranopia
and protanopia (Machado, Oliveira, Fernandes, TVCG 2009, severity 1). It is at least 20 among the
first 20 colors and 13 among all.
"""


def palette(number: int) -> np.ndarray:
    """Return ``[K, 3]`` uint8 colors.

    After the distinct colors follow hues a golden section apart, so that neighbors differ.
    """
    colors = [list(bytes.fromhex(text)) for text in _DISTINCT.split()[:number]]
    for k in range(len(colors), number):
        hue = (k * 0.618034 + 0.6) % 1
        rgb = colorsys.hsv_to_rgb(hue, 0.75 if k % 2 else 0.5, 0.9 if k % 3 else 0.65)
        colors.append([round(255 * part) for part in rgb])
    return np.array(colors, dtype=np.uint8).reshape(number, 3)


def palette_with(
    colors: Mapping[str, Sequence[int]] | Sequence[Sequence[int]] | None, classes: Sequence[str]
) -> np.ndarray:
    """Return the palette of ``classes`` with the colors that a recipe sets.

    Args:
        colors: class name -> (red, green, blue), for some or all classes; or a list with one
            color per class.
        classes: names in the order of the train ids.

    Raises:
        UsageError: a name that is no class, or a list of another length.
    """
    table = palette(len(classes))
    if colors is None:
        return table
    if not isinstance(colors, Mapping):
        if len(colors) != len(classes):
            raise UsageError(
                "data.colors does not match the classes",
                got=f"{len(colors)} colors",
                need=f"one for each of {len(classes)} classes",
                tip="use {CLASS: [R, G, B]} to set the colors of some classes",
                key="colors",
            )
        return np.array(colors, dtype=np.uint8).reshape(len(classes), 3)
    unknown = [name for name in colors if name not in classes]
    if unknown:
        raise UsageError(
            "data.colors has names that are no classes",
            got=some(unknown),
            need=f"names from {some(classes, 12)}",
            key="colors",
        )
    for name, color in colors.items():
        table[list(classes).index(name)] = color
    return table
