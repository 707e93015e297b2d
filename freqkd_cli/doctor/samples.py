"""Sample images of a split with their labels, as panels to draw."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from freqkd_cli.errors import DataBroken
from freqkd_cli.images.dataset import Dataset, spread
from freqkd_cli.images.pairs import printable

SAMPLES = 6
"""Images that are drawn, spread over the split."""

_OPACITY = 0.55
"""Share of the label color in an overlay."""

log = logging.getLogger(__name__)


def sample_panels(dataset: Dataset, number: int = SAMPLES) -> list[Mapping[str, np.ndarray]]:
    """Return one row per sample: the image, the labels over the image, and the labels alone.

    Images and overlays are ``[H, W, 3]`` uint8, labels ``[H, W]``. An image without labels is its
    only panel. Samples that cannot be read are skipped with a warning.

    Raises:
        DataBroken: none of them can be read.
    """
    rows: list[Mapping[str, np.ndarray]] = []
    problem: DataBroken | None = None
    for index in spread(len(dataset), number):
        try:
            image, labels = dataset.read(index)
        except DataBroken as error:
            problem = error
            log.warning("sample skipped: %s", printable(error.line))
            continue
        rows.append(_panels(dataset, index, image, labels))
    if not rows and problem is not None:
        raise problem
    return rows


def _panels(
    dataset: Dataset, index: int, image: np.ndarray, labels: np.ndarray | None
) -> Mapping[str, np.ndarray]:
    if labels is None:
        return {"image": image}
    return {
        "image": image,
        "labels over the image": overlay(image, labels, dataset.palette),
        "labels": labels,
    }


def overlay(image: np.ndarray, labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Return the image with the colors of its labels blended in; void pixels stay as they are."""
    known = labels < len(palette)
    colors = palette[np.where(known, labels, 0)].astype(np.float32)
    blended = (1 - _OPACITY) * image.astype(np.float32) + _OPACITY * colors
    return np.where(known[..., None], blended.round(), image).astype(np.uint8)
