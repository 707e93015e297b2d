"""One sentence about what bounds a training step and what would help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from freqkd_cli.recipe.data_section import Data

GROUPS = {
    "data": "waiting for data",
    "teacher": "the teacher's forward pass",
    "cache": "reading the cache",
    "target": "the losses' targets",
    "student.forward": "the student's forward pass",
    "student.backward": "the student's backward pass",
    "forward": "the losses' forward pass",
    "backward": "the losses' backward pass",
    "optimizer": "the optimizer",
    "average": "the averaged weights",
    "rest": "everything else",
}
"""Name of a part, or what follows its last dot -> name of all such parts in a sentence."""

LARGE_SHARE = 0.1
"""Share of a step from which a group of parts is named."""


def bound(parts: Sequence[dict[str, Any]], data: Data) -> str:
    """Return the largest group of parts, other large ones, and advice; data is always named."""
    shares = dict.fromkeys(GROUPS.values(), 0.0)
    for part in parts:
        shares[GROUPS.get(part["name"]) or GROUPS[part["name"].rpartition(".")[2]]] += part["share"]
    largest, *others = sorted(shares, key=lambda name: -shares[name])
    others = [name for name in others if shares[name] >= LARGE_SHARE or name == GROUPS["data"]]
    clauses = [f"{largest}: {shares[largest]:.0%} of the step"]
    clauses += [f"{name}: {shares[name]:.0%}" for name in others]
    text = "; ".join(
        clause + _advice(name, shares[name], data)
        for clause, name in zip(clauses, [largest, *others], strict=True)
    )
    return text[0].upper() + text[1:]


def _advice(name: str, share: float, data: Data) -> str:
    if share < LARGE_SHARE:
        return ""
    if name == GROUPS["data"]:
        if data.workers != "auto":
            return f", try data.workers={data.workers + 1}"
        return ", try data.keep=memory" if data.keep == "none" else ""
    if name == GROUPS["teacher"]:
        return ", a cache would save it" + ("" if data.views else " (with data.views above 0)")
    return ""
