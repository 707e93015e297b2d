"""Files of masks: every kind of file, and how stored values are written to it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from deep_files import write_png, write_tiff
from form_scenes import SIZE
from mask_codings import COLORS
from PIL import Image


def split_colors(stored: np.ndarray) -> np.ndarray:
    return np.stack([stored >> 16 & 255, stored >> 8 & 255, stored & 255], -1).astype(np.uint8)


def voc_palette() -> list[int]:
    """The palette of PASCAL VOC: three bits of the index per channel, from the highest bit."""
    table = []
    for index in range(256):
        for channel in range(3):
            bits = [(index >> (3 * k + channel) & 1) << (7 - k) for k in range(8)]
            table.append(sum(bits))
    return table


def _grey(path: Path, stored: np.ndarray, **options: object) -> None:
    if stored.dtype == np.uint8:
        Image.fromarray(stored).save(path, **options)
    else:
        write_tiff(path, [stored])


def _lossy(path: Path, stored: np.ndarray, mode: str = "L") -> None:
    buffer = io.BytesIO()
    Image.fromarray(stored).convert(mode).save(buffer, "JPEG", quality=80)
    path.write_bytes(buffer.getvalue())


def _resized(path: Path, stored: np.ndarray, how: Image.Resampling) -> None:
    small = Image.fromarray(stored[::2, ::2])
    small.resize(SIZE[::-1], how).save(path)


def _indexed(path: Path, stored: np.ndarray, table: list[int]) -> None:
    image = Image.fromarray(stored).convert("L")
    image.putpalette(table)
    image.save(path)


def _shuffled(path: Path, stored: np.ndarray) -> None:
    """Write a palette whose order differs from file to file; the colors are the classes."""
    count = int(stored.max()) + 1
    order = np.random.default_rng(sum(path.name.encode())).permutation(count)
    table = np.zeros((256, 3), np.uint8)
    table[order] = split_colors(np.array(COLORS[:count]))
    _indexed(path, order[stored].astype(np.uint8), table.ravel().tolist())


def _with_alpha(path: Path, rgb: np.ndarray, alpha: np.ndarray) -> None:
    Image.fromarray(np.dstack([rgb, alpha]).astype(np.uint8)).save(path)


def _pages(path: Path, stored: np.ndarray) -> None:
    pages = [np.where(stored == k, 255, 0).astype(np.uint8) for k in range(1, stored.max() + 1)]
    write_tiff(path, pages)


def _three(stored: np.ndarray) -> np.ndarray:
    return np.dstack([stored] * 3)


def _opaque(stored: np.ndarray) -> np.ndarray:
    return np.full(stored.shape, 255, np.uint8)


def _save(path: Path, pixels: np.ndarray, **options: object) -> None:
    Image.fromarray(pixels).save(path, **options)


WRITERS: dict[str, tuple[str, Callable[[Path, np.ndarray], None]]] = {
    "png": (".png", _grey),
    "PNG": (".PNG", _grey),
    "bmp": (".bmp", _grey),
    "tif": (".tif", lambda p, a: _grey(p, a)),
    "tif_lzw": (".tiff", lambda p, a: _grey(p, a, compression="tiff_lzw")),
    "gif": (".gif", _grey),
    "rgb": (".png", lambda p, a: _save(p, _three(a))),
    "bits8_rgb": (".png", lambda p, a: write_png(p, _three(a), 8)),
    "rgba": (".png", lambda p, a: _with_alpha(p, _three(a), _opaque(a))),
    "la": (
        ".png",
        lambda p, a: Image.merge("LA", [Image.fromarray(a), Image.fromarray(_opaque(a))]).save(p),
    ),
    "webp": (".webp", lambda p, a: _save(p, _three(a), lossless=True)),
    "jpg": (".jpg", _lossy),
    "jpg_rgb": (".jpg", lambda p, a: _lossy(p, a, "RGB")),
    "resized": (".png", lambda p, a: _resized(p, a, Image.Resampling.BILINEAR)),
    "lanczos": (".png", lambda p, a: _resized(p, a, Image.Resampling.LANCZOS)),
    "bits1": (".png", lambda p, a: write_png(p, a, 1)),
    "bits2": (".png", lambda p, a: write_png(p, a, 2)),
    "bits4": (".png", lambda p, a: write_png(p, a, 4)),
    "mode1": (".png", lambda p, a: Image.fromarray(a > 0).save(p)),
    "mode1_tif": (".tif", lambda p, a: Image.fromarray(a > 0).save(p)),
    "png16": (".png", lambda p, a: write_png(p, a, 16)),
    "npy": (".npy", lambda p, a: np.save(p, a)),
    "palette": (".png", lambda p, a: _indexed(p, a, voc_palette())),
    "palette_gif": (".gif", lambda p, a: _indexed(p, a, voc_palette())),
    "palette_tif": (".tif", lambda p, a: _indexed(p, a, voc_palette())),
    "shuffled": (".png", _shuffled),
    "color": (".png", lambda p, a: _save(p, split_colors(a))),
    "color_bmp": (".bmp", lambda p, a: _save(p, split_colors(a))),
    "color_tif": (".tif", lambda p, a: _save(p, split_colors(a))),
    "color_webp": (".webp", lambda p, a: _save(p, split_colors(a), lossless=True)),
    "color_gif": (".gif", lambda p, a: _save(p, split_colors(a))),
    "color_rgba": (".png", lambda p, a: _with_alpha(p, split_colors(a), _opaque(a))),
    "color_clear": (".png", lambda p, a: _with_alpha(p, split_colors(a), 255 * (a > 0))),
    "color_jpg": (".jpg", lambda p, a: _save(p, split_colors(a), quality=85)),
    "alpha": (".png", lambda p, a: _with_alpha(p, np.zeros((*a.shape, 3)), a)),
    "pages": (".tif", _pages),
}
"""Kind of file -> its suffix, and the function that writes stored values."""

LOSSY = frozenset({"jpg", "jpg_rgb", "resized", "lanczos", "color_jpg"})


def loosened(path: Path, stored: np.ndarray, levels: list[float]) -> np.ndarray:
    """Return the pixels that a lossy file moved by more than a quarter of a step."""
    read = np.array(Image.open(path).convert("L"), float)
    step = np.diff(sorted(levels)).min() if len(levels) > 1 else 255
    return np.abs(read - stored.astype(float)) > step / 4
