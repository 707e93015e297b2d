"""Taps: named places in a model whose outputs are read.

Models list their taps as data, so a recipe can be checked without building a model, and return them
by name: ``model(images, taps=["encoder"])`` is ``{"logits": ..., "encoder": ...}``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from freqkd_cli.errors import RecipeError
from freqkd_cli.registry import did_you_mean

Kind = Literal["features", "logits", "auxiliary", "nodes", "graph"]


@dataclass(frozen=True)
class Tap:
    """One named place.

    Attributes:
        name: its name in recipes and ``--tap``.
        stride: image pixels per cell.
        channels: C of the map ``[B, C, h, w]`` (K for logits, heads * d for nodes, heads for a
            graph).
        kind: ``features``; ``logits``; ``auxiliary`` (logits of a training-only head, returned in
            training mode alone); ``nodes`` (features of the cells by head, ``[B, heads, N, d]``,
            whose Gram matrix is a graph); ``graph`` (relations between cells,
            ``[B, heads, N, N]``). N = h * w cells, row by row.
        alias: another tap that this name stands for, or None.
        heads: of nodes or of a graph.
    """

    name: str
    stride: int
    channels: int
    kind: Kind = "features"
    alias: str | None = None
    heads: int = 1

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the cells (h, w) of an image of this size, rounded up."""
        return -(-height // self.stride), -(-width // self.stride)


def pick(taps: Sequence[Tap], name: str, owner: str, *, key: str | None = None) -> Tap:
    """Return the tap called ``name``.

    Args:
        owner: whose taps these are, for the message.
        key: the recipe key that holds the name.

    Raises:
        RecipeError: there is no such tap; the message lists the known ones.
    """
    for tap in taps:
        if tap.name == name:
            return tap
    known = [tap.name for tap in taps]
    raise RecipeError(
        f"{owner} has no tap {name!r}{did_you_mean(name, known)}",
        need=f"one of {', '.join(known)}",
        key=key,
    )


def stored_as(name: str, taps: Mapping[str, Tap]) -> str:
    """Return the tap that ``name`` stands for: itself, or the one that it is an alias of.

    Caches store places, each once.
    """
    return (taps[name].alias or name) if name in taps else name


def by_name(taps: Iterable[Tap], wanted: Iterable[str]) -> dict[str, Tap]:
    """Return the wanted taps as a dictionary, in the order of ``wanted``."""
    table = {tap.name: tap for tap in taps}
    return {name: table[name] for name in wanted}
