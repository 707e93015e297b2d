"""Small data sets in the layouts of the real ones, made of noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from freqkd_cli.datasets.voc import color

SIZE = (64, 96)


def save(
    path: Path, pixels: np.ndarray, palette: Sequence[int] | None = None, **options: object
) -> None:
    """Write an image, its folders too; with a palette the pixels are indices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pil_image = Image.fromarray(pixels)
    if palette is not None:
        pil_image = Image.new("P", pixels.shape[::-1])
        pil_image.putdata(pixels.ravel().tolist())
        pil_image.putpalette(list(palette))
    pil_image.save(path, **options)


def noise(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)


def labels(values: Sequence[int], number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Every value occurs: blocks of noise, the values in turn in the first row."""
    rng = np.random.default_rng(100 + number)
    drawn = np.array(values, np.uint8)[rng.integers(0, len(values), size)]
    drawn[0, : len(values)] = values[: size[1]]
    return drawn


def cityscapes(
    root: Path,
    kind: str = "labelIds",
    values: Sequence[int] = range(34),
    splits: Sequence[str] = ("train", "val"),
) -> None:
    for split in splits:
        for number, name in enumerate(
            ("aachen/aachen_000000_000019", "aachen/aachen_000001_000019", "ulm/ulm_000000_000019")
        ):
            save(
                root
                / "leftImg8bit"
                / split
                / f"{name}_leftImg8bit.{'jpg' if number == 1 else 'png'}",
                noise(number),
            )
            save(root / "gtFine" / split / f"{name}_gtFine_{kind}.png", labels(values, number))
            save(root / "gtFine" / split / f"{name}_gtFine_color.png", noise(number))


def ade20k(root: Path, values: Sequence[int] = range(0, 151)) -> None:
    for folder in ("training", "validation"):
        for number in range(3):
            name = f"ADE_{folder[:5]}_{number:08d}"
            save(
                root / "images" / folder / f"{name}.{'png' if number == 1 else 'jpg'}",
                noise(number, (64, 160)),
            )
            save(root / "annotations" / folder / f"{name}.png", labels(values, number, (64, 160)))


def voc(root: Path, palette: Sequence[int], values: Sequence[int] = (*range(21), 255)) -> None:
    lists = {"train": range(3), "val": range(3, 5), "trainval": range(5), "test": range(6, 8)}
    for number in range(8):
        save(
            root / "JPEGImages" / f"2007_{number:06d}.{'png' if number == 1 else 'jpg'}",
            noise(number),
        )
        if number < 6:
            save(
                root / "SegmentationClass" / f"2007_{number:06d}.png",
                labels(values, number),
                palette,
            )
            save(
                root / "SegmentationClassAug" / f"2007_{number:06d}.png", labels(range(21), number)
            )
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    for name, numbers in lists.items():
        (root / "ImageSets" / "Segmentation" / f"{name}.txt").write_text(
            "".join(f"2007_{number:06d}\n" for number in numbers)
        )


def folder(
    root: Path,
    masks: Sequence[np.ndarray],
    names: Sequence[str] = ("road", "car", "sky"),
    splits: Sequence[str] = ("train", "val"),
) -> None:
    for split in splits:
        for number, mask in enumerate(masks):
            save(root / "images" / split / f"p{number}.png", noise(number, mask.shape[:2]))
            save(root / "masks" / split / f"p{number}.png", mask)
    (root / "classes.txt").write_text("\n".join(names))


def full_palette() -> list[int]:
    return [part for index in range(256) for part in color(index)]
