"""The houses of ``scenes``: facades with roofs and windows along the street."""

from __future__ import annotations

import numpy as np

from freqkd_cli.datasets._scenes_canvas import Canvas
from freqkd_cli.datasets._scenes_colors import ROOFS, WALLS
from freqkd_cli.datasets._scenes_dice import Dice
from freqkd_cli.datasets._scenes_street import BUILDING, Street, W, near


def paint_facades(canvas: Canvas, street: Street, dice: Dice) -> list[tuple[float, float, float]]:
    """Paint rows of houses along the facade lines.

    Returns:
        places for boards: (x, top row, bottom row).
    """
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
    u, side, first, last = where
    x0, x1 = sorted((street.vx + side * first, street.vx + side * last))
    rise = dice.between(60, 120) / 100
    wall = canvas.material(street.tint(dice.vary(dice.pick(WALLS), 10)))
    roof = canvas.material(street.tint(dice.pick(ROOFS)))
    panes = [canvas.material(dice.vary(color, 6)) for color in street.light.windows]
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
    """Paint a window per floor and column of the wall.

    Args:
        wall: its mask, floors up and columns along.
        lit: bits that are 1 where there is light.
    """
    inside, up, along = wall
    floor, column = np.floor(up), np.floor(along)
    inside = inside & near(up - floor, 0.55, 0.22)
    inside &= near(along - column, 0.5, 0.26)
    canvas.paint(area, panes[0], BUILDING, inside)
    floor *= 5
    floor += column
    inside &= (lit >> (floor.astype(np.int32) & 15) & 1) == 1
    canvas.paint(area, panes[1], BUILDING, inside)
