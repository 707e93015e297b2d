"""The street of ``scenes``: a vanishing point, bands of ground along it, facades or the sea beside it.

A place on the ground is (u, d): d rows below the horizon, u = (x - vx) / d to the side, so that a line of the street is one u. From one
side to the other the bands are: facade or sea, pavement, road, pavement, facade or sea; road and pavement wear the same asphalt, sea and
sky the same colours and clouds. Only the order of the bands, the horizon and the facades say which is which.
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
    Colour,
    Dice,
    cell,
)

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
class Light:
    """Colours of an hour of the day: two of the sky (and of the water), the asphalt, a tint for all else, and of windows."""

    sky: tuple[Colour, Colour]
    asphalt: Colour
    tint: Colour
    windows: tuple[Colour, Colour]


LIGHTS = (
    Light(
        ((106, 150, 190), (164, 184, 192)),
        (134, 136, 140),
        (268, 266, 262),
        ((74, 96, 122), (96, 122, 146)),
    ),
    Light(
        ((120, 164, 190), (188, 196, 182)),
        (146, 142, 134),
        (276, 268, 250),
        ((82, 100, 116), (116, 138, 150)),
    ),
    Light(
        ((92, 142, 190), (146, 182, 192)),
        (126, 128, 132),
        (264, 262, 260),
        ((66, 90, 120), (104, 130, 150)),
    ),
    Light(
        ((146, 156, 168), (178, 184, 188)),
        (120, 124, 130),
        (240, 246, 252),
        ((72, 84, 98), (98, 112, 124)),
    ),
    Light(
        ((126, 110, 164), (190, 146, 136)),
        (118, 110, 124),
        (226, 210, 228),
        ((70, 66, 98), (214, 178, 104)),
    ),
    Light(
        ((90, 104, 154), (150, 126, 166)),
        (100, 102, 122),
        (196, 200, 232),
        ((62, 64, 96), (208, 180, 112)),
    ),
    Light(
        ((156, 152, 176), (190, 174, 154)),
        (142, 132, 126),
        (262, 240, 220),
        ((86, 82, 96), (176, 160, 128)),
    ),
)
WALLS = (
    (184, 140, 112),
    (190, 164, 124),
    (166, 118, 104),
    (150, 154, 160),
    (178, 172, 152),
    (142, 150, 134),
    (186, 152, 140),
)
ROOFS = ((138, 84, 72), (104, 92, 96), (92, 100, 112), (124, 98, 80))
LEAVES = ((84, 126, 70), (104, 136, 66), (74, 112, 78), (132, 130, 66), (150, 112, 62))
HILLS = ((112, 136, 122), (122, 140, 108), (108, 124, 134))


@dataclass(frozen=True)
class Street:
    """Where everything is. ``bands`` holds (u low, u high, label) from left to right; ``edges`` the facades: (u, side)."""

    light: Light
    vx: float
    vy: float
    central: bool
    bands: tuple[tuple[float, float, int], ...]
    facades: tuple[tuple[float, int], ...]

    def kerbs(self) -> list[float]:
        """The lines between two bands that both are seen."""
        return [low for low, _, _ in self.bands[1:]]

    def visible(self, low: float, high: float, d: float) -> tuple[float, float]:
        """The part of a band that row vy + d shows, as x."""
        return max(self.vx + low * d, 0.0), min(self.vx + high * d, float(W))

    def tint(self, colour: Colour) -> Colour:
        (r, g, b), (tr, tg, tb) = colour, self.light.tint
        return min(r * tr >> 8, 200), min(g * tg >> 8, 200), min(b * tb >> 8, 200)


def plan(dice: Dice) -> Street:
    """Draw the hour, the point of view and the bands."""
    light = dice.pick(LIGHTS)
    vy = float(dice.between(50, 74))
    if dice.chance(30):
        return _along(dice, light, vy)
    return _across(dice, light, vy)


def _along(dice: Dice, light: Light, vy: float) -> Street:
    """The camera looks down the street; the sea may lie on the right (pictures are mirrored later)."""
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
    """The camera looks over the street at a slant; the vanishing point is left of the picture."""
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
    """Sky, far hills and the bands of ground."""
    light = street.light
    one, two = (dice.vary(c, 10) for c in light.sky)
    air = canvas.material(one, two, CLOUD)
    # Sky and water share colours, clouds and the size of the gradient; its direction is drawn for each, so it tells nothing.
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
        canvas.paint(area, stone, VOID, _close(u, line, 0.026 + 0.022 * abs(line)))


def _close(places: np.ndarray, middle: float, reach: float) -> np.ndarray:
    away = places - middle
    return np.abs(away, out=away) < reach


def _gradient(canvas: Canvas, dice: Dice, middle: float) -> np.ndarray:
    """``[H, 1]`` blend 0..256: a drawn value in the middle row, and a drawn slope down or up the sheet."""
    value, slope = dice.between(88, 168), dice.between(60, 120) * (1 if dice.chance(50) else -1)
    return np.minimum(
        np.maximum(np.floor(value + (canvas.ys - middle) / H * slope), 0), 256
    ).astype(np.int16)


def _hills(canvas: Canvas, street: Street, dice: Dice) -> None:
    """A wooded far shore on the horizon: a polyline of drawn heights."""
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
    """A dashed line in the middle of the road and of the wide pavement alike, so that it marks neither."""
    d = canvas.ys[area[0]] - street.vy
    dash = (
        np.floor(240.0 / d) if street.central else np.floor((canvas.xs - street.vx) / 24.0)
    ).astype(np.int64) % 2 == 0
    seen = dash & (d > 10)
    for low, high, label in street.bands:
        if label == WATER or low < -FAR / 2 or high > FAR / 2:
            continue
        middle = (low + high) / 2
        canvas.paint(area, stone, label, _close(u, middle, 0.011 + 0.008 * abs(middle)) & seen)


def paint_facades(canvas: Canvas, street: Street, dice: Dice) -> list[tuple[float, float, float]]:
    """Rows of houses along the facade lines. Returns places for boards: (x, top row, bottom row)."""
    places: list[tuple[float, float, float]] = []
    for u, side in street.facades:
        reach = (W - street.vx) if side > 0 else street.vx
        away = max(14.0, -street.vx if side > 0 else street.vx - W)
        while away < reach:
            end = min(away * dice.between(125, 170) / 100 + 8, reach + 40)
            _house(canvas, street, dice, (u, side, away, end), places)
            away = end
    return places


def _house(
    canvas: Canvas,
    street: Street,
    dice: Dice,
    where: tuple[float, int, float, float],
    places: list[tuple[float, float, float]],
) -> None:
    u, side, near, far = where
    x0, x1 = sorted((street.vx + side * near, street.vx + side * far))
    rise = dice.between(60, 120) / 100
    wall = canvas.material(street.tint(dice.vary(dice.pick(WALLS), 10)))
    roof = canvas.material(street.tint(dice.pick(ROOFS)))
    panes = [canvas.material(dice.vary(colour, 6)) for colour in street.light.windows]
    lit = dice.between(0, 0xFFFF)
    cols = canvas.span(x0, x1, False)
    xs = canvas.xs[cols]
    if not xs.size:
        return
    depth = np.abs(xs - street.vx) / abs(u)
    base, top = street.vy + depth, street.vy - rise * depth
    tallest = 0 if side < 0 else -1
    area = (canvas.span(top.item(tallest), base.item(tallest) + 1, True), cols)
    ys = canvas.ys[area[0]]
    inside = ys >= top
    inside &= ys < base
    canvas.paint(area, wall, BUILDING, inside)
    canvas.paint(area, roof, BUILDING, inside & (ys < top + 0.16 * depth))
    up = ys - top
    up /= base - top
    up *= 2 + (rise > 0.95)
    along = np.minimum(np.maximum((xs - x0) / (x1 - x0), 0.0), 0.999) * max(1, int((x1 - x0) / 15))
    _windows(canvas, area, (inside, up, along), panes, lit)
    middle = (x0 + x1) / 2
    depth_there = abs(middle - street.vx) / abs(u)
    if 8 < middle < W - 8 and depth_there > 14:
        places.append((middle, street.vy - rise * depth_there, street.vy + depth_there))


def _windows(
    canvas: Canvas,
    area: tuple[slice, slice],
    wall: tuple[np.ndarray, np.ndarray, np.ndarray],
    panes: list[int],
    lit: int,
) -> None:
    """One per floor and column of the wall (its mask, floors up, columns along); the bits of ``lit`` say where there is light."""
    inside, up, along = wall
    floor, column = np.floor(up), np.floor(along)
    inside = inside & _close(up - floor, 0.55, 0.22)
    inside &= _close(along - column, 0.5, 0.26)
    canvas.paint(area, panes[0], BUILDING, inside)
    floor *= 5
    floor += column
    inside &= (lit >> (floor.astype(np.int32) & 15) & 1) == 1
    canvas.paint(area, panes[1], BUILDING, inside)
