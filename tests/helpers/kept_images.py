"""A small data set of files whose decoded images are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from freqkd_cli.datasets import folder
from freqkd_cli.images.keep import keep_decoded
from freqkd_cli.runtime.progress import Silent

SIZES = [(40, 56), (33, 47), (64, 32)]


def write(root: Path, number: int, size: tuple[int, int], seed: int = 0) -> None:
    """Write an image and its mask, both random."""
    rng = np.random.default_rng((number, seed))
    for kind, pixels in (
        ("images", rng.integers(0, 256, (*size, 3), dtype=np.uint8)),
        ("masks", rng.integers(0, 3, size, dtype=np.uint8)),
    ):
        path = root / kind / "train" / f"p{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def opened(root: Path, **keys: object):
    return folder.build(split="train", root=root, size=(32, 32), classes=["a", "b", "c"], **keys)


def kept(dataset, where: str):
    keep_decoded([dataset], where, Silent())
    return dataset


def read(dataset, index: int):
    return dataset.kept.read(dataset, index)


def same(one, other) -> bool:
    """Whether images and labels are equal, number formats included."""
    pairs = zip(one, other, strict=True)
    return all(
        a is b if a is None else a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs
    )


def refused() -> Callable:
    def fail(index: int):
        raise AssertionError("decoded again")

    return fail


def write_all(root: Path) -> Path:
    """Write an image of each of :data:`SIZES`, with its mask; return the folder."""
    for number, size in enumerate(SIZES):
        write(root, number, size)
    return root
