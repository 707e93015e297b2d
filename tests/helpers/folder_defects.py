"""What is wrong or unusual with single files of a generated data set."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mask_codings import Coding
from mask_files import LOSSY
from PIL import Image

READABLE = ("ids", "ids_bits1", "ids_no_void", "palette", "bw_mode1", "u16_ids_255")
"""Codings that every version reads without a key."""
UNUSUAL = ("npy", "bits2", "bits4", "webp", "gif", "la", "rgb", "rgba", "bits8_rgb", "palette_gif")
Place = tuple[slice, slice, float]


def _nothing(image: Path, mask: Path, number: int) -> None:
    pass


@dataclass(frozen=True)
class Defect:
    """One defect.

    Attributes:
        apply: changes the files of an image after they were written.
        stray: masks that hold a few pixels of another value.
        refused: words of the message with which ``data --all`` must refuse the data set; empty =
            it need not.
    """

    name: str
    apply: Callable[[Path, Path, int], None] = _nothing
    stray: tuple[int, ...] = ()
    refused: str = ""

    def fits(self, coding: Coding, file: str) -> bool:
        """Return whether the defect makes sense for masks of this kind."""
        if self.stray:
            return coding.small and file not in LOSSY and "bits" not in file
        if self.name == "absent class":
            return coding.name in ("ids", "ids_no_void", "u16_ids_255", "palette", "float_ids")
        if self.refused:  # nothing else is wrong with these masks, so that nothing hides it
            return coding.name in READABLE and file not in UNUSUAL
        return file not in ("npy", "pages", "jpg")

    def strays(self, number: int, values: Sequence[float], coding: Coding) -> Place | None:
        if number not in self.stray:
            return None
        return slice(30, 33), slice(40, 47), stray_value(values)


def stray_value(values: Sequence[float]) -> int:
    """Return a value that no class has."""
    return next(value for value in (77, 201, 33) if value not in {*map(int, values)})


def _cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def _damage_mask(image: Path, mask: Path, number: int) -> None:
    if number == 3:
        _cut(mask)


def _damage_image(image: Path, mask: Path, number: int) -> None:
    if number == 3:
        _cut(image)


def _empty_mask(image: Path, mask: Path, number: int) -> None:
    if number == 3:
        mask.write_bytes(b"")


def _page_of_the_host(image: Path, mask: Path, number: int) -> None:
    if number == 3:
        mask.write_bytes(b"<!DOCTYPE html><html><body>404 Not Found</body></html>")


def _no_mask(image: Path, mask: Path, number: int) -> None:
    if number == 3:
        mask.unlink()


def _half_size(image: Path, mask: Path, number: int) -> None:
    with Image.open(mask) as opened:
        opened.load()
        small = opened.resize((opened.width // 2, opened.height // 2), Image.Resampling.NEAREST)
    small.save(mask)


def _not_upright(image: Path, mask: Path, number: int) -> None:
    with Image.open(mask) as opened:
        turned = opened.transpose(Image.Transpose.ROTATE_90)
    turned.save(mask)


def _hidden(image: Path, mask: Path, number: int) -> None:
    for path in (image, mask):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    image.with_name("Thumbs.db").write_bytes(b"\xd0\xcf")
    mask.with_name(".DS_Store").write_bytes(b"\0")


def _color_copies(image: Path, mask: Path, number: int) -> None:
    noise = np.random.default_rng(number).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(mask.with_name(f"{mask.stem}_color.png"))


def _json_beside(image: Path, mask: Path, number: int) -> None:
    image.with_suffix(".json").write_text(json.dumps({"version": "5.0", "shapes": []}))


def _more_masks(image: Path, mask: Path, number: int) -> None:
    spare = mask.with_name(f"spare_{number}{mask.suffix}")
    spare.write_bytes(mask.read_bytes())


DEFECTS = (
    Defect("none"),
    Defect("stray in one mask", stray=(1,)),
    Defect("strays in many masks", stray=(0, 2, 3, 4)),
    Defect("absent class"),
    Defect("damaged mask", _damage_mask, refused="p003"),
    Defect("damaged image", _damage_image, refused="p003"),
    Defect("empty mask file", _empty_mask, refused="p003"),
    Defect("page instead of a mask", _page_of_the_host, refused="p003"),
    Defect("image without mask", _no_mask, refused="p003"),
    Defect("masks of half size", _half_size, refused="size"),
    Defect("masks not upright", _not_upright, refused="size|rotate"),
    Defect("hidden files", _hidden),
    Defect("color copies", _color_copies),
    Defect("json beside", _json_beside),
    Defect("more masks than images", _more_masks),
)
"""Every defect of the study."""
