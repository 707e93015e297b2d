"""Class colors: distinguishable with and without color vision, and settable in the recipe."""

from __future__ import annotations

import numpy as np
import pytest

from freqkd_cli.errors import UsageError
from freqkd_cli.images.palette import palette, palette_with

# Machado, Oliveira, Fernandes, TVCG 2009: matrices of severity 1 for linear RGB.
VISION = {
    "normal": np.eye(3),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
}
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
D65 = np.array([0.95047, 1.0, 1.08883])


def lab(colors: np.ndarray, vision: np.ndarray) -> np.ndarray:
    """Return CIELAB of uint8 sRGB colors as seen with this vision."""
    c = colors / 255.0
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ vision.T, 0, 1) @ TO_XYZ.T / D65
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack(
        [116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=-1
    )


def smallest_distance(colors: np.ndarray, vision: np.ndarray) -> float:
    points = lab(colors, vision)
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return float(distances[np.triu_indices(len(points), 1)].min())


def test_lab_has_known_values():
    points = lab(np.array([[255, 255, 255], [255, 0, 0], [0, 0, 0]]), np.eye(3))
    np.testing.assert_allclose(points, [[100, 0, 0], [53.24, 80.09, 67.20], [0, 0, 0]], atol=0.02)


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize(("number", "bound"), [(2, 30), (8, 30), (12, 26), (20, 20), (32, 13)])
def test_colors_are_distinguishable(vision, number, bound):
    assert smallest_distance(palette(number), VISION[vision]) >= bound


def test_any_number_of_classes_has_colors():
    colors = palette(254)
    assert colors.shape == (254, 3) and colors.dtype == np.uint8
    assert len({tuple(color) for color in colors}) == 254
    np.testing.assert_array_equal(palette(5), colors[:5])
    assert palette(0).shape == (0, 3)


def test_colors_of_the_recipe_replace_those_of_the_palette():
    names = ("road", "car", "sky")
    colors = palette_with({"car": [1, 2, 3]}, names)
    assert colors[1].tolist() == [1, 2, 3]
    np.testing.assert_array_equal(colors[[0, 2]], palette(3)[[0, 2]])
    listed = [[1, 1, 1], [2, 2, 2], [3, 3, 3]]
    assert palette_with(listed, names).tolist() == listed
    with pytest.raises(UsageError, match="no classes\n  got  bus") as caught:
        palette_with({"bus": [0, 0, 0]}, names)
    assert caught.value.key == "colors"
    with pytest.raises(UsageError, match="2 colors\n  need one for each of 3"):
        palette_with(listed[:2], names)
