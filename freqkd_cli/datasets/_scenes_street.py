"""The street of ``scenes``: a vanishing point, bands of ground, facades or the sea beside it.

A place on the ground is (u, d): d rows below the horizon, u = (x - vx) / d to the side, so that a
line of the street is one u. From one side to the other the bands are: facade or sea, pavement,
road, pavement, facade or sea. Road and pavement have the same asphalt, sea and sky the same colors
and clouds. Only the order of the bands, the horizon and the facades distinguish them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from freqkd_cli.datasets._scenes_canvas import (
    ASPHALT,
    CLOUD,
    DESIGN,
    FOLIAGE,
    Canvas,
    cell,
)
from freqkd_cli.datasets._scenes_colors import HILLS, LIGHTS, Light
from freqkd_cli.datasets._scenes_dice import Color, Dice

CLASSES = (
    "road",
    "pavement",
    "sky",
    "water",
    "building",
    "tree",
    "car",
    "person",
    "pole",
    "railing",
    "sign",
    "panel",
)
ROAD, PAVEMENT, SKY, WATER, BUILDING, TREE, CAR, PERSON, POLE, RAILING, SIGN, PANEL = range(12)
VOID = 255

H, W = DESIGN
FAR = 1e6


@dataclass(frozen=True)
class Street:
    """The geometry of one image.

    Attributes:
        vx, vy: vanishing point.
        bands: (u low, u high, label) from left to right.
        facades: (u, side).
    """

    light: Light
    vx: float
    vy: float
    central: bool
    bands: tuple[tuple[float, float, int], ...]
    facades: tuple[tuple[float, int], ...]

    def kerbs(self) -> list[float]:
        """Return the lines between two visible bands."""
        return [low for low, _, _ in self.bands[1:]]

    def visible(self, low: float, high: float, d: float) -> tuple[float, float]:
        """Return the part of a band that row vy + d shows, as x."""
        return max(self.vx + low * d, 0.0), min(self.vx + high * d, float(W))

    def tint(self, color: Color) -> Color:
        (r, g, b), (tr, tg, tb) = color, self.light.tint
        return min(r * tr >> 8, 200), min(g * tg >> 8, 200), min(b * tb >> 8, 200)


def plan(dice: Dice) -> Street:
    """Draw the hour of the day, the point of view and the bands."""
    light = dice.pick(LIGHTS)
    vy = float(dice.between(50, 74))
    if dice.chance(30):
        return _along(dice, light, vy)
    return _across(dice, light, vy)


def _along(dice: Dice, light: Light, vy: float) -> Street:
    """Return a view along the street; the sea may be on the right.

    Images are mirrored later.
    """
    vx = float(dice.between(84, 150))
    left = -vx / dice.between(34, 60)
    kerb_left = (dice.between(24, 84) - vx) / (H - vy)
    kerb_right = (dice.between(178, 240) - vx) / (H - vy)
    sea = dice.chance(65)
    right = (W - vx) / (dice.between(60, 100) if sea else dice.between(34, 60))
    bands = (
        (left, kerb_left, PAVEMENT),
        (kerb_left, kerb_right, ROAD),
        (kerb_right, right, PAVEMENT),
    )
    if sea:
        return Street(light, vx, vy, True, (*bands, (right, FAR, WATER)), ((left, -1),))
    return Street(light, vx, vy, True, bands, ((left, -1), (right, 1)))


def _across(dice: Dice, light: Light, vy: float) -> Street:
    """Return a slanted view across the street; the vanishing point is left of the image."""
    vx = -float(dice.between(40, 260))
    sea_behind = dice.chance(40)
    row = vy + (dice.between(46, 72) if sea_behind else dice.between(26, 42))
    lines = [(W - vx) / (row - vy)]
    for step in (dice.between(14, 24), dice.between(38, 58), dice.between(26, 48)):
        row += step
        lines.append((W - vx) / (row - vy))
    edge, kerb_far, kerb_near, quay = lines
    bands = ((quay, kerb_near, PAVEMENT), (kerb_near, kerb_far, ROAD), (kerb_far, edge, PAVEMENT))
    bands = (
        ((-FAR, quay, WATER), *bands)
        if dice.chance(85)
        else ((-FAR, kerb_near, PAVEMENT), *bands[1:])
    )
    if sea_behind:
        return Street(light, vx, vy, False, (*bands, (edge, FAR, WATER)), ())
    return Street(light, vx, vy, False, bands, ((edge, 1),))


def paint_open(canvas: Canvas, street: Street, dice: Dice) -> None:
    """Paint the sky, far hills and the bands of ground."""
    light = street.light
    one, two = (dice.vary(c, 10) for c in light.sky)
    air = canvas.material(one, two, CLOUD)
    # Sky and water share colors, clouds and the size of the gradient. Its direction is drawn for
    # each, so it carries no information.
    slope_sky, slope_water = (
        _gradient(canvas, dice, middle) for middle in (street.vy / 2, (street.vy + H) / 2)
    )
    canvas.cells[:] = cell(air, SKY)
    rows = canvas.span(street.vy, H, True)
    canvas.blend[: rows.start], canvas.blend[rows] = slope_sky[: rows.start], slope_water[rows]
    _hills(canvas, street, dice)
    ground = canvas.material(dice.vary(light.asphalt, 12), texture=ASPHALT)
    stone = canvas.material(street.tint(dice.vary((182, 178, 172), 8)))
    u = (canvas.xs - street.vx) / (canvas.ys[rows] - street.vy)
    area = (rows, slice(None))
    kinds = [(air if label == WATER else ground, label) for _, _, label in street.bands]
    canvas.cells[rows] = cell(*kinds[0])
    for line, kind in zip(street.kerbs(), kinds[1:], strict=True):
        canvas.paint(area, *kind, u >= line)
    _markings(canvas, street, area, u, stone)
    for line in street.kerbs():
        canvas.paint(area, stone, VOID, near(u, line, 0.026 + 0.022 * abs(line)))


def near(places: np.ndarray, middle: float, reach: float) -> np.ndarray:
    """Return where places are within ``reach`` of the middle."""
    away = places - middle
    return np.abs(away, out=away) < reach


def _gradient(canvas: Canvas, dice: Dice, middle: float) -> np.ndarray:
    """Return ``[H, 1]`` blend 0..256: a drawn value in the middle row and a drawn slope."""
    value, slope = dice.between(88, 168), dice.between(60, 120) * (1 if dice.chance(50) else -1)
    return np.minimum(
        np.maximum(np.floor(value + (canvas.ys - middle) / H * slope), 0), 256
    ).astype(np.int16)


def _hills(canvas: Canvas, street: Street, dice: Dice) -> None:
    """Paint a wooded far shore on the horizon: a polyline of drawn heights."""
    knots = np.array([dice.between(5, 15) for _ in range(10)], dtype=np.float32)
    place = canvas.xs * (9 / W)
    left = place.astype(np.int64)
    crest = street.vy - (knots[left] + (knots[left + 1] - knots[left]) * (place - left))
    rows = canvas.span(street.vy - 16, street.vy + 1, True)
    wood = canvas.material(street.tint(dice.vary(dice.pick(HILLS), 8)), texture=FOLIAGE)
    canvas.paint((rows, slice(None)), wood, TREE, canvas.ys[rows] >= crest)


def _markings(
    canvas: Canvas, street: Street, area: tuple[slice, slice], u: np.ndarray, stone: int
) -> None:
    """Paint a dashed line in the middle of the road and of the wide pavement alike.

    So the line is no sign of either.
    """
    d = canvas.ys[area[0]] - street.vy
    dash = (
        np.floor(240.0 / d) if street.central else np.floor((canvas.xs - street.vx) / 24.0)
    ).astype(np.int64) % 2 == 0
    visible = dash & (d > 10)
    for low, high, label in street.bands:
        if label == WATER or low < -FAR / 2 or high > FAR / 2:
            continue
        middle = (low + high) / 2
        canvas.paint(area, stone, label, near(u, middle, 0.011 + 0.008 * abs(middle)) & visible)
