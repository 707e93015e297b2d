"""The truth of a generated data set: images, their label maps, and how the labels are stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIZE = (64, 96)
VOID = -1
"""Truth id of pixels that belong to no class."""


@dataclass
class Scene:
    """One image of the truth.

    Attributes:
        split: train or val.
        rgb: ``[H, W, 3]`` uint8.
        ids: ``[H, W]`` int16, class number or :data:`VOID`.
        loose: pixels of which any reading is accepted: strays, and edges of lossy masks.
    """

    split: str
    rgb: np.ndarray
    ids: np.ndarray
    loose: np.ndarray


def scene(rng: np.random.Generator, split: str, classes: int, *, void: bool, absent: int) -> Scene:
    """Return a ground of class 0 with a disc of every other class.

    Args:
        void: leave a frame and a disc without a class.
        absent: a class that does not occur, or -1.
    """
    height, width = SIZE
    y, x = np.mgrid[:height, :width]
    ids = np.zeros(SIZE, np.int16)
    column = width / max(classes - 1, 1)
    for number in range(1, classes):
        if number == absent:
            continue
        center = (rng.uniform(0.4, 0.6) * height, (number - 1 + rng.uniform(0.4, 0.6)) * column)
        radius = rng.uniform(0.32, 0.42) * min(height, column)
        ids[(y - center[0]) ** 2 + (x - center[1]) ** 2 < radius**2] = number
    if void:
        ids[:3] = ids[:, :3] = VOID
        ids[(y - height + 8) ** 2 + (x - rng.uniform(8, width - 8)) ** 2 < 30] = VOID
    return Scene(split, _photograph(rng, ids), ids, np.zeros(SIZE, bool))


def _photograph(rng: np.random.Generator, ids: np.ndarray) -> np.ndarray:
    """Return an image in which regions have colors, with a texture that no other image has."""
    table = np.random.default_rng(99).integers(60, 200, (16, 3))
    blocks = rng.integers(-45, 46, (SIZE[0] // 8, SIZE[1] // 8, 3))
    texture = blocks.repeat(8, axis=0).repeat(8, axis=1)
    return (table[ids] + texture + rng.normal(0, 3, (*SIZE, 3))).clip(0, 255).astype(np.uint8)


def luminance(pixels: np.ndarray) -> np.ndarray:
    """Return the mean over channels as a float64 vector."""
    return pixels.reshape(*pixels.shape[:2], -1).mean(axis=2).ravel().astype(np.float64)


def closest(pixels: np.ndarray, scenes: list[Scene]) -> tuple[int, float]:
    """Return which scene an image shows, and its correlation with it."""
    seen = luminance(pixels)
    if seen.std() == 0:
        return 0, 0.0
    values = [
        np.corrcoef(seen, luminance(scene.rgb))[0, 1] if scene.rgb.shape == pixels.shape else -1
        for scene in scenes
    ]
    best = int(np.argmax(values))
    return best, float(values[best])
