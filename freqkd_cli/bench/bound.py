"""What bounds a training step, in one sentence that also says what would help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import Data

GROUPS = {
    "data": "waiting for data",
    "teacher": "the teacher's forward pass",
    "cache": "reading the cache",
    "target": "the losses' teacher halves",
    "student.forward": "the student's forward pass",
    "student.backward": "the student's backward pass",
    "forward": "the losses' forward pass",
    "backward": "the losses' backward pass",
    "optimizer": "the optimizer",
    "average": "the averaged weights",
    "rest": "everything between",
}
"""A part's name, or what stands after its last dot -> what a sentence calls all such parts together."""
WORTH_SAYING = 0.1
"""Share of a step."""


def bound(parts: Sequence[dict[str, Any]], data: Data) -> str:
    """One sentence: what takes most of the step, what else counts, what would help; waiting for data is always told."""
    shares = dict.fromkeys(GROUPS.values(), 0.0)
    for part in parts:
        shares[GROUPS.get(part["name"]) or GROUPS[part["name"].rpartition(".")[2]]] += part["share"]
    first, *others = sorted(shares, key=lambda name: -shares[name])
    others = [name for name in others if shares[name] >= WORTH_SAYING or name == GROUPS["data"]]
    text = "; ".join(
        [f"{first}: {shares[first]:.0%} of the step" + _advice(first, shares[first], data)]
        + [f"{name}: {shares[name]:.0%}" + _advice(name, shares[name], data) for name in others]
    )
    return text[0].upper() + text[1:]


def _advice(name: str, share: float, data: Data) -> str:
    if share < WORTH_SAYING:
        return ""
    if name == GROUPS["data"]:
        return f", try data.workers={data.workers + 1}"
    if name == GROUPS["teacher"]:
        return ", a cache would save it" + ("" if data.views else " (with data.views above 0)")
    return ""
