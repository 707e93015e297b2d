"""How label maps are stored in masks: the values of the classes and of void, and the files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

COLORS = (0x000000, 0xE6194B, 0x3CB44B, 0x4363D8, 0xF58231, 0x911EB4)
WHITE = 0xFFFFFF
SPARSE = (7, 8, 11, 12, 17, 19)


@dataclass(frozen=True)
class Coding:
    """Stored values of ``classes`` classes.

    Attributes:
        values: number of classes -> the stored value of each.
        void: number of classes -> the stored value of void; None where no pixel is void.
        classes: numbers of classes for which it makes sense.
        files: kinds of files, keys of :data:`WRITERS`.
        dtype: of the stored array; colors are int32 0xRRGGBB.
        refusable: words of a plain "not supported", which is a right answer; empty = it is not.
    """

    name: str
    values: Callable[[int], list[float]]
    void: Callable[[int], float] | None
    files: tuple[str, ...]
    classes: tuple[int, ...] = (2, 3, 4, 5, 6)
    dtype: str = "u1"
    refusable: str = ""

    @property
    def colored(self) -> bool:
        return self.name.startswith("colors")

    @property
    def small(self) -> bool:
        """Whether all values may be class ids, 0 .. 254."""
        return self.dtype == "u1" and not self.refusable

    def table(self, ids: np.ndarray, classes: int) -> np.ndarray:
        """Return the stored values of truth ids."""
        values = np.array([*self.values(classes), self.void(classes) if self.void else 0], float)
        with np.errstate(invalid="ignore"):
            return values[ids].astype(self.dtype)


def _stretched(classes: int) -> list[float]:
    return [round(255 * number / (classes - 1)) for number in range(classes)]


def _ids(classes: int) -> list[float]:
    return [*range(classes)]


def _from_one(classes: int) -> list[float]:
    return [*range(1, classes + 1)]


def _always(value: float) -> Callable[[int], float]:
    return lambda classes: value


PLAIN = ("png", "bmp", "tif", "gif", "rgb", "rgba", "la", "webp", "tif_lzw", "PNG", "bits8_rgb")
GREY = ("png", "bmp", "tif", "rgb")
TWO = (2,)

CODINGS = (
    Coding("ids", _ids, _always(255), PLAIN),
    Coding("ids_no_void", _ids, None, (*PLAIN, "bits4", "npy")),
    Coding("ids_bits1", _ids, None, ("bits1", "mode1", "bits2"), TWO),
    Coding("ids_bits2", _ids, None, ("bits2",), (3, 4)),
    Coding("zero_void", _from_one, _always(0), GREY),
    Coding("one_based", _from_one, _always(255), GREY),
    Coding("last_void", _ids, lambda classes: classes, GREY),
    Coding("void_254", _ids, _always(254), GREY),
    Coding("bw", lambda _: [0, 255], None, (*PLAIN, "jpg", "resized"), TWO),
    Coding("bw_jpg", lambda _: [0, 255], None, ("jpg", "jpg_rgb"), TWO),
    Coding("bw_resized", lambda _: [0, 255], None, ("resized", "lanczos"), TWO),
    Coding("bw_void", lambda _: [0, 255], _always(128), GREY, TWO),
    Coding("bw_mode1", lambda _: [0, 1], None, ("mode1", "mode1_tif"), TWO),
    Coding("one_two", lambda _: [1, 2], None, GREY, TWO),
    Coding("trimap", lambda _: [1, 2], _always(3), GREY, TWO),
    Coding("stretched", _stretched, None, (*GREY, "jpg"), (3, 4)),
    Coding("stretched_many", _stretched, None, GREY, (5, 6)),
    Coding("stretched_resized", _stretched, None, ("resized",), (3,)),
    Coding("tens", lambda n: [10 * k for k in range(n)], _always(255), GREY),
    Coding("sparse", lambda n: [*SPARSE[:n]], _always(255), GREY),
    Coding("u16_bw", lambda _: [0, 65535], None, ("png16", "tif"), TWO, "u2"),
    Coding("u16_ids", _ids, _always(65535), ("png16", "tif"), dtype="u2"),
    Coding("u16_ids_255", _ids, _always(255), ("png16", "tif"), dtype="u2"),
    Coding(
        "u16_stretched", lambda n: [257 * v for v in _stretched(n)], None, ("png16",), (3, 4), "u2"
    ),
    Coding("i32_ids", _ids, _always(255), ("tif",), dtype="i4"),
    Coding("float_ids", _ids, _always(255), ("tif",), dtype="f4"),
    Coding("float_bw", lambda _: [0, 255], None, ("tif",), TWO, "f4"),
    Coding("float_unit", lambda _: [0, 1], None, ("tif",), TWO, "f4"),
    Coding(
        "float_nan",
        _ids,
        _always(np.nan),
        ("tif",),
        dtype="f4",
        refusable="NaN|nan|not a number|fraction",
    ),
    Coding(
        "float_parts",
        lambda n: [k / (n - 1) for k in range(n)],
        None,
        ("tif",),
        (3, 4),
        "f4",
        "fraction|float",
    ),
    Coding("minus_one", _ids, _always(-1), ("tif",), dtype="i2", refusable="-1|negative"),
    Coding(
        "instances",
        lambda n: [1000 * k + 1001 for k in range(n)],
        _always(0),
        ("png16",),
        dtype="u2",
        refusable="1001",
    ),
    Coding("palette", _ids, _always(255), ("palette", "palette_gif", "palette_tif")),
    Coding("palette_zero_void", _from_one, _always(0), ("palette",)),
    Coding("palette_shuffled", _ids, None, ("shuffled",), (3, 4, 5), refusable="palette|color"),
    Coding(
        "colors",
        lambda n: [*COLORS[1 : n + 1]][:n],
        _always(0),
        ("color", "color_bmp", "color_webp", "color_tif"),
        (2, 3, 4, 5),
        "i4",
    ),
    Coding(
        "colors_black",
        lambda n: [*COLORS[:n]],
        None,
        ("color", "color_gif", "color_rgba", "color_clear"),
        dtype="i4",
    ),
    Coding(
        "colors_white", lambda n: [*COLORS[:n]], _always(WHITE), ("color", "color_rgba"), dtype="i4"
    ),
    Coding("colors_red", lambda n: [k << 16 for k in range(n)], None, ("color",), dtype="i4"),
    Coding("colors_jpg", lambda n: [*COLORS[:n]], None, ("color_jpg",), (3, 4), "i4", "JPEG|color"),
    Coding("alpha", lambda _: [0, 255], None, ("alpha",), TWO, refusable="alpha|transparen"),
    Coding("pages", _ids, None, ("pages",), (3, 4), refusable="page|frame"),
)
"""Every coding of the study."""


def void_of(coding: Coding, classes: int) -> float | None:
    return coding.void(classes) if coding.void else None
