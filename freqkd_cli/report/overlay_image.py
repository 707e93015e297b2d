"""Predicted labels drawn over their image in color, with a legend below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from freqkd_cli.report.comparison_image import LINE, PAPER, draw_legend, flow

NARROWEST = 96
"""Width in pixels below which an overlay has no legend."""
_TEXT, _MARGIN, _WIDTH = 13, 8, 720
"""Size of the text, margin, and the width from which on both grow with the image, in pixels."""


def overlay(
    image: np.ndarray,
    labels: np.ndarray,
    legend: Sequence[Mapping[str, Any]],
    *,
    every: bool = False,
    alpha: float = 0.5,
    strip: bool = True,
) -> Image.Image:
    """Blend the colors of the labels into the image, and append a strip with the class names.

    Args:
        image, labels: ``[H, W, 3]`` uint8 RGB and ``[H, W]`` class numbers.
        legend: ``name`` and ``color`` of every class.
        every: list all classes, so that all frames of a video have one size; otherwise only
            those that occur.
        alpha: share of the color.
        strip: append the strip; an image that is too narrow for it has none.
    """
    palette = np.array([row["color"] for row in legend], np.uint8)
    mixed = Image.blend(Image.fromarray(image), Image.fromarray(palette[labels]), alpha)
    if not strip or mixed.width < NARROWEST:
        return mixed
    present = range(len(legend)) if every else np.unique(labels).tolist()
    names = [(legend[k]["name"], tuple(legend[k]["color"])) for k in present]
    scale = max(1.0, mixed.width / _WIDTH)
    font, margin = ImageFont.load_default(_TEXT * scale), round(_MARGIN * scale)
    entries = flow(names, font, mixed.width - 2 * margin, scale)
    height = entries[-1][1] + round(LINE * scale) + margin
    sheet = Image.new("RGB", (mixed.width, mixed.height + height), PAPER)
    sheet.paste(mixed, (0, 0))
    pen = ImageDraw.Draw(sheet)
    draw_legend(pen, entries, font, (margin, mixed.height + margin // 2), scale)
    return sheet
