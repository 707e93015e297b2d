"""``data.split``: divide one folder into splits, by the names of the images alone."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from freqkd_cli.errors import DataMissing, UsageError
from freqkd_cli.images.dataset import SPLITS
from freqkd_cli.images.pairs import Pair
from freqkd_cli.recipe.value_types import ProperShare

Shares = ProperShare | Annotated[list[ProperShare], Field(min_length=2, max_length=3)]

_OFFERED = (0.8, 0.7, 0.6, 0.5, 0.9)


def shares_of(value: float | Sequence[float]) -> tuple[float, ...]:
    """Return the shares of train, val and test; a single number is the share of train.

    Raises:
        UsageError: they do not add up to 1.
    """
    shares = (value, 1 - value) if isinstance(value, (int, float)) else tuple(value)
    if abs(sum(shares) - 1) > 1e-6:
        raise UsageError(
            "data.split does not add up to 1",
            got=list(shares),
            need="the share of train, such as 0.8, or the shares [0.8, 0.1, 0.1] of train, val "
            "and test",
            key="split",
        )
    return shares


def place_of(name: str) -> float:
    """Return a number in [0, 1) that depends on the name of an image alone.

    It is the same on every machine, and does not change when images are added.
    """
    text = os.fsencode(unicodedata.normalize("NFC", name))
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") / 2**64


def check_share(split: str, shares: Sequence[float]) -> None:
    """
    Raises:
        DataMissing: there is no share for the split.
    """
    if split not in SPLITS[: len(shares)]:
        raise DataMissing(
            f"data.split has no share for the split {split!r}",
            got=f"shares of {' and '.join(SPLITS[: len(shares)])}",
            tip="--set 'data.split=[0.8, 0.1, 0.1]'",
            key="split",
        )


def in_split(pairs: Sequence[Pair], split: str, shares: Sequence[float]) -> list[Pair]:
    """Return the pairs of a split.

    Raises:
        DataMissing: there are none.
    """
    number = SPLITS.index(split)  # type: ignore[arg-type]
    low, high = sum(shares[:number]), sum(shares[: number + 1])
    last = number == len(shares) - 1
    chosen = [pair for pair in pairs if low <= place_of(pair.stem) and (last or _below(pair, high))]
    if not chosen:
        other = offered(pairs)
        raise DataMissing(
            f"data.split leaves no image for the split {split!r}",
            got=f"{len(pairs)} images with shares {list(shares)}",
            need="more images, or another share",
            tip=f"--set 'data.split={other}'" if other and len(shares) == 2 else None,
            key="split",
        )
    return chosen


def offered(pairs: Sequence[Pair]) -> float | None:
    """Return a share of train that leaves images for val too, None where there is none."""
    places = [place_of(pair.stem) for pair in pairs]
    return next((s for s in _OFFERED if places and min(places) < s <= max(places)), None)


def _below(pair: Pair, high: float) -> bool:
    return place_of(pair.stem) < high
