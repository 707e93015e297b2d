"""What stands in the street of ``scenes``. The fine classes keep the mean colour of what they are taken for when blurred:

a pole adds light and dark bands to whatever lies behind it, a railing is a panel with bars, a sign is a plain board with a pattern, each
with period 4 px on the design sheet (half of Nyquist) around the colour that the plain thing has.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from freqkd_cli.datasets._scenes_canvas import FOLIAGE, MATERIAL, Canvas, Dice, cell
from freqkd_cli.datasets._scenes_street import (
    CAR,
    LEAVES,
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
"""Grey levels by which the fine patterns go up and down."""

PAINTS = (
    (176, 72, 68),
    (70, 104, 168),
    (190, 186, 178),
    (196, 160, 76),
    (88, 100, 108),
    (92, 142, 132),
    (150, 82, 120),
)
CLOTHES = (
    (186, 84, 70),
    (76, 104, 156),
    (196, 164, 90),
    (98, 140, 104),
    (146, 96, 144),
    (188, 182, 172),
    (92, 92, 104),
)
SKINS = ((196, 158, 132), (168, 124, 98), (120, 88, 72))
BOARDS = (
    (82, 116, 176),
    (178, 96, 84),
    (170, 150, 86),
    (88, 146, 112),
    (152, 152, 156),
    (142, 104, 160),
)
BARRIERS = ((122, 130, 138), (108, 132, 116), (140, 122, 108), (126, 112, 128))

Thing = tuple[float, Callable[[], None]]


def place_things(
    canvas: Canvas, street: Street, dice: Dice, boards: list[tuple[float, float, float]]
) -> None:
    """Draw what stands there and paint it from far to near."""
    for x, top, base in boards:
        if dice.chance(85):
            side = dice.between(12, 18)
            _plate(
                canvas,
                street,
                dice,
                x + dice.between(-6, 6),
                top + (base - top) * 0.72,
                side,
                side - dice.between(0, 3),
            )
    things: list[Thing] = []
    for band in street.bands:
        if band[2] == ROAD:
            _put(
                things,
                street,
                dice,
                band,
                (26, 86),
                dice.between(1, 3),
                lambda x, y, d: _car(canvas, street, dice, x, y, d),
            )
        if band[2] == PAVEMENT:
            parked = dice.chance(40)
            _put(
                things,
                street,
                dice,
                band,
                (26, 80),
                int(parked),
                lambda x, y, d: _car(canvas, street, dice, x, y, d),
            )
            _put(
                things,
                street,
                dice,
                band,
                (24, 70),
                dice.between(1, 2),
                lambda x, y, d: _tree(canvas, street, dice, x, y, d),
            )
            _put(
                things,
                street,
                dice,
                band,
                (30, 100),
                dice.between(1, 2),
                lambda x, y, d: _pole(canvas, street, dice, x, y, d),
            )
            _put(
                things,
                street,
                dice,
                band,
                (30, 100),
                1,
                lambda x, y, d: _stand(canvas, street, dice, x, y, d),
            )
        if band[2] != WATER:
            _put(
                things,
                street,
                dice,
                band,
                (30, 92),
                dice.between(1, 2),
                lambda x, y, d: _person(canvas, street, dice, x, y, d),
            )
    for line in street.kerbs():
        _barriers(things, canvas, street, dice, line)
    for _, paint in sorted(things, key=lambda thing: thing[0]):
        paint()
    canvas.finish()


def _put(
    things: list[Thing],
    street: Street,
    dice: Dice,
    band: tuple[float, float, int],
    depths: tuple[int, int],
    count: int,
    paint: Callable[[float, float, float], None],
) -> None:
    """Up to ``count`` feet on the part of a band that is seen."""
    for _ in range(count):
        for _ in range(4):
            d = float(dice.between(*depths))
            low, high = street.visible(band[0], band[1], d)
            if high - low > 10 and street.vy + d < 190:
                x = low + (high - low) * dice.between(12, 88) / 100
                things.append((d, lambda x=x, d=d: paint(x, street.vy + d, d)))
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
    """Light and dark bands on whatever is behind: the mean stays, so a blur leaves nothing."""
    top = max(y - d * dice.between(125, 175) / 100, 6.0)
    wide = min(max(0.048 * d, 3.0), 4.0)
    area = canvas.box(x - wide / 2, top, x + wide / 2, y)
    canvas.later(lambda: _bands(canvas, area))
    if dice.chance(85):
        side = min(max(0.3 * d, 12), 22)
        _plate(canvas, street, dice, x, top + side * 0.4, side, side * dice.between(80, 100) / 100)


def _bands(canvas: Canvas, area: tuple[slice, slice]) -> None:
    cells = canvas.cells[area]
    cells &= MATERIAL
    cells |= cell(0, POLE)
    canvas.shade(area, CONTRAST * canvas.down[area[0]])


def _stand(canvas: Canvas, street: Street, dice: Dice, x: float, y: float, d: float) -> None:
    """A board that stands on the ground."""
    side = min(max(0.3 * d, 12), 22)
    _shadow(canvas, x - side * 0.6, x + side * 0.6, y, d * 0.5)
    _plate(canvas, street, dice, x, y - side / 2, side, side)


def _plate(
    canvas: Canvas, street: Street, dice: Dice, x: float, y: float, wide: float, tall: float
) -> None:
    """A framed board around (x, y); half of them carry a pattern and are signs."""
    colour = street.tint(dice.vary(dice.pick(BOARDS), 8))
    frame = canvas.material((colour[0] * 5 // 8, colour[1] * 5 // 8, colour[2] * 5 // 8))
    face = canvas.material(colour)
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
    """Stretches of railing or of solid panel on a kerb, alike in place, size and mean colour."""
    if abs(line) < 0.25:
        return
    seen = (abs(street.vx), abs(street.vx - 256.0))
    low = max(24.0, (min(seen) if not 0 < street.vx < 256 else 0.0) / abs(line))
    high = min(
        100.0, ((256.0 - street.vx) if line > 0 else street.vx) / abs(line), 188.0 - street.vy
    )
    for _ in range(dice.between(1, 2)):
        if high - low < 8:
            return
        start = low + (high - low) * dice.between(0, 70) / 100
        end = min(start + (high - low) * dice.between(25, 50) / 100, high)
        barred, colour = dice.chance(50), street.tint(dice.vary(dice.pick(BARRIERS), 10))
        things.append(
            (
                end,
                lambda a=start, b=end, r=barred, c=colour: _barrier(
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
    colour: tuple[int, int, int],
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
    material = canvas.material(colour)
    canvas.later(lambda: canvas.paint(area, material, RAILING if barred else PANEL, mask))
    if barred:
        canvas.later(lambda: canvas.shade(area, CONTRAST * canvas.across[cols], mask))
