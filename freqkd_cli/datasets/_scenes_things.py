"""Objects in the street of ``scenes``: cars, people, trees, poles, boards and barriers.

The fine classes keep, when blurred, the mean color of what they resemble. A pole adds light and
dark bands to its background, a railing is a panel with bars, a sign is a plain board with a
pattern. Each pattern has period 4 px on the design sheet (half of Nyquist).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from freqkd_cli.datasets._scenes_canvas import FOLIAGE, MATERIAL, Canvas, cell
from freqkd_cli.datasets._scenes_colors import BARRIERS, BOARDS, CLOTHES, LEAVES, PAINTS, SKINS
from freqkd_cli.datasets._scenes_dice import Dice
from freqkd_cli.datasets._scenes_street import (
    CAR,
    PANEL,
    PAVEMENT,
    PERSON,
    POLE,
    RAILING,
    ROAD,
    SIGN,
    TREE,
    WATER,
    Street,
)

CONTRAST = 52
"""Amplitude of the fine patterns, in grey levels."""

Thing = tuple[float, Callable[[], None]]


def place_things(
    canvas: Canvas, street: Street, dice: Dice, boards: list[tuple[float, float, float]]
) -> None:
    """Draw the objects and paint them from far to near."""
    for x, top, base in boards:
        if dice.chance(85):
            side = dice.between(12, 18)
            at = (x + dice.between(-6, 6), top + (base - top) * 0.72)
            _plate(canvas, street, dice, at, side, side - dice.between(0, 3))
    things: list[Thing] = []
    put = partial(_put, things, canvas, street, dice)
    for band in street.bands:
        # The order of the draws is part of the generator's version.
        if band[2] == ROAD:
            put(band, _car, (26, 86), dice.between(1, 3))
        if band[2] == PAVEMENT:
            parked = int(dice.chance(40))
            put(band, _car, (26, 80), parked)
            put(band, _tree, (24, 70), dice.between(1, 2))
            put(band, _pole, (30, 100), dice.between(1, 2))
            put(band, _stand, (30, 100), 1)
        if band[2] != WATER:
            put(band, _person, (30, 92), dice.between(1, 2))
    for line in street.kerbs():
        _barriers(things, canvas, street, dice, line)
    for _, paint in sorted(things, key=lambda thing: thing[0]):
        paint()
    canvas.finish()


def _put(
    things: list[Thing],
    canvas: Canvas,
    street: Street,
    dice: Dice,
    band: tuple[float, float, int],
    paint: Callable[..., None],
    depths: tuple[int, int],
    count: int,
) -> None:
    """Place up to ``count`` objects on the visible part of a band."""
    for _ in range(count):
        for _ in range(4):
            d = float(dice.between(*depths))
            low, high = street.visible(band[0], band[1], d)
            if high - low > 10 and street.vy + d < 190:
                x = low + (high - low) * dice.between(12, 88) / 100
                things.append(
                    (d, lambda x=x, d=d: paint(canvas, street, dice, x, street.vy + d, d))
                )
                break


def _shadow(canvas: Canvas, x0: float, x1: float, y: float, d: float) -> None:
    canvas.shadow(x0, y - 0.05 * d - 1, x1, y + 0.05 * d + 1)


def _car(canvas: Canvas, street: Street, dice: Dice, x: float, y: float, d: float) -> None:
    length, height = (0.62, 0.5) if street.central else (1.1, 0.46)
    half, tall = length * d / 2, height * d
    body = canvas.material(street.tint(dice.vary(dice.pick(PAINTS), 10)))
    glass = canvas.material(street.light.windows[0])
    tyre = canvas.material((52, 52, 56))
    _shadow(canvas, x - half * 1.1, x + half * 1.1, y, d)
    wheel = 0.16 * d
    spread = 0.36 * d if not street.central else 0.2 * d
    roof = (
        x - half * 0.62,
        y - tall,
        x + half * (0.42 if not street.central else 0.62),
        y - tall * 0.4,
    )
    canvas.ellipse(roof[0] - 2, roof[1], roof[2] + 2, y - tall * 0.1, body, CAR)
    canvas.rect(
        roof[0] + half * 0.12, roof[1] + tall * 0.12, roof[2] - half * 0.12, roof[3], glass, CAR
    )
    canvas.rect(x - half, y - tall * 0.58, x + half, y - tall * 0.14, body, CAR)
    for foot in (x - spread, x + spread):
        canvas.ellipse(foot - wheel * 0.6, y - wheel * 1.1, foot + wheel * 0.6, y, tyre, CAR)
    lamp = canvas.material((204, 190, 140) if dice.chance(50) else (192, 72, 62))
    for edge in (x - half + 0.02 * d, x + half - 0.1 * d):
        canvas.rect(edge, y - tall * 0.5, edge + 0.08 * d, y - tall * 0.36, lamp, CAR)


def _person(canvas: Canvas, street: Street, dice: Dice, x: float, y: float, d: float) -> None:
    tall = 0.6 * d * dice.between(88, 112) / 100
    wide = 0.13 * tall
    coat, legs = (canvas.material(street.tint(dice.vary(dice.pick(CLOTHES), 8))) for _ in range(2))
    skin = canvas.material(street.tint(dice.pick(SKINS)))
    _shadow(canvas, x - wide * 2, x + wide * 2, y, d * 0.6)
    canvas.rect(x - wide, y - tall * 0.5, x - wide * 0.15, y, legs, PERSON)
    canvas.rect(x + wide * 0.15, y - tall * 0.5, x + wide, y, legs, PERSON)
    canvas.ellipse(x - wide * 1.5, y - tall * 0.88, x + wide * 1.5, y - tall * 0.34, coat, PERSON)
    canvas.ellipse(x - wide * 0.8, y - tall, x + wide * 0.8, y - tall * 0.8, skin, PERSON)


def _tree(canvas: Canvas, street: Street, dice: Dice, x: float, y: float, d: float) -> None:
    tall, wide = d * dice.between(150, 190) / 100, d * dice.between(30, 42) / 100
    bark = canvas.material(street.tint((112, 88, 72)))
    crown = canvas.material(street.tint(dice.vary(dice.pick(LEAVES), 8)), texture=FOLIAGE)
    _shadow(canvas, x - wide, x + wide, y, d)
    canvas.rect(x - 0.05 * d - 1, y - tall * 0.6, x + 0.05 * d + 1, y, bark, TREE)
    for dx, dy, r in ((0.0, 0.0, 1.0), (-0.55, 0.35, 0.75), (0.55, 0.3, 0.75)):
        cx, cy = x + dx * wide, y - tall + wide + dy * wide
        canvas.ellipse(
            cx - wide * r, cy - wide * r, cx + wide * r, cy + wide * r * 1.15, crown, TREE
        )


def _pole(canvas: Canvas, street: Street, dice: Dice, x: float, y: float, d: float) -> None:
    """Add light and dark bands to the background; the mean stays, so a blur removes them."""
    top = max(y - d * dice.between(125, 175) / 100, 6.0)
    wide = min(max(0.048 * d, 3.0), 4.0)
    area = canvas.box(x - wide / 2, top, x + wide / 2, y)
    canvas.later(lambda: _bands(canvas, area))
    if dice.chance(85):
        side = min(max(0.3 * d, 12), 22)
        _plate(
            canvas, street, dice, (x, top + side * 0.4), side, side * dice.between(80, 100) / 100
        )


def _bands(canvas: Canvas, area: tuple[slice, slice]) -> None:
    cells = canvas.cells[area]
    cells &= MATERIAL
    cells |= cell(0, POLE)
    canvas.shade(area, CONTRAST * canvas.down[area[0]])


def _stand(canvas: Canvas, street: Street, dice: Dice, x: float, y: float, d: float) -> None:
    """Paint a board that stands on the ground."""
    side = min(max(0.3 * d, 12), 22)
    _shadow(canvas, x - side * 0.6, x + side * 0.6, y, d * 0.5)
    _plate(canvas, street, dice, (x, y - side / 2), side, side)


def _plate(
    canvas: Canvas, street: Street, dice: Dice, at: tuple[float, float], wide: float, tall: float
) -> None:
    """Paint a framed board around ``at``. Half of them have a pattern and are signs."""
    x, y = at
    color = street.tint(dice.vary(dice.pick(BOARDS), 8))
    frame = canvas.material((color[0] * 5 // 8, color[1] * 5 // 8, color[2] * 5 // 8))
    face = canvas.material(color)
    label = SIGN if dice.chance(50) else PANEL
    box = (x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2)
    canvas.rect(*box, frame, label)
    inner = (box[0] + 1, box[1] + 1, box[2] - 1, box[3] - 1)
    canvas.rect(*inner, face, label)
    if label == SIGN:
        area = canvas.box(*inner)
        canvas.later(
            lambda: canvas.shade(area, CONTRAST * canvas.down[area[0]] * canvas.across[area[1]])
        )


def _barriers(things: list[Thing], canvas: Canvas, street: Street, dice: Dice, line: float) -> None:
    """Put stretches of railing or of solid panel on a kerb.

    Both have the same distribution of place, size and mean color.
    """
    if abs(line) < 0.25:
        return
    sides = (abs(street.vx), abs(street.vx - 256.0))
    low = max(24.0, (min(sides) if not 0 < street.vx < 256 else 0.0) / abs(line))
    high = min(
        100.0, ((256.0 - street.vx) if line > 0 else street.vx) / abs(line), 188.0 - street.vy
    )
    for _ in range(dice.between(1, 2)):
        if high - low < 8:
            return
        start = low + (high - low) * dice.between(0, 70) / 100
        end = min(start + (high - low) * dice.between(25, 50) / 100, high)
        barred, color = dice.chance(50), street.tint(dice.vary(dice.pick(BARRIERS), 10))
        things.append(
            (
                end,
                lambda a=start, b=end, r=barred, c=color: _barrier(
                    canvas, street, line, (a, b), r, c
                ),
            )
        )


def _barrier(
    canvas: Canvas,
    street: Street,
    line: float,
    depths: tuple[float, float],
    barred: bool,
    color: tuple[int, int, int],
) -> None:
    x0, x1 = sorted(street.vx + line * d for d in depths)
    cols = canvas.span(x0, x1, False)
    xs = canvas.xs[cols]
    if xs.size < 2:
        return
    d = (xs - street.vx) / line
    base = street.vy + d
    top = base - np.minimum(0.3 * d, 26.0)
    near, far = (-1, 0) if line > 0 else (0, -1)
    area = (canvas.span(top.item(far), base.item(near) + 1, True), cols)
    ys = canvas.ys[area[0]]
    mask = ys >= top
    mask &= ys < base
    material = canvas.material(color)
    canvas.later(lambda: canvas.paint(area, material, RAILING if barred else PANEL, mask))
    if barred:
        canvas.later(lambda: canvas.shade(area, CONTRAST * canvas.across[cols], mask))
