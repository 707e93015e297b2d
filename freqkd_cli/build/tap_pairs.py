"""What can be wrong between the loss lines of a recipe that compare a student tap with a teacher tap."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from freqkd_cli.features.taps import Tap, stored_as

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import LossLine, Recipe

Pair = tuple[int, "LossLine", str, str]


def _pairs(
    recipe: Recipe, student: Mapping[str, Tap], teacher: Mapping[str, Tap]
) -> Iterator[Pair]:
    """(number, line, student tap, teacher tap) of the lines that are not switched off, each place under its own name."""
    for number, line in enumerate(recipe.losses):
        ours, theirs = (line.arguments.get(side) for side in ("student", "teacher"))
        if line.weight > 0 and ours in student and theirs in teacher:
            yield number, line, stored_as(ours, student), stored_as(theirs, teacher)


def doubled(
    recipe: Recipe, student: Mapping[str, Tap], teacher: Mapping[str, Tap]
) -> list[tuple[str, str]]:
    """Lines that do with the same two places what one before does, in every argument: one was meant for another stage."""
    first: dict[tuple[object, ...], int] = {}
    found = []
    for number, line, ours, theirs in _pairs(recipe, student, teacher):
        how = sorted(
            (name, repr(value))
            for name, value in line.arguments.items()
            if name not in ("student", "teacher")
        )
        key = (line.name, ours, theirs, *how)
        before = first.setdefault(key, number)
        if before != number:
            text = f"{line.name} compares student {ours} with teacher {theirs}, as losses.{before} does already; need another tap"
            found.append((f"losses.{number}", text))
    return found


def unequal(recipe: Recipe, student: Mapping[str, Tap], teacher: Mapping[str, Tap]) -> list[str]:
    """Stages that are paired though one is finer than the other: the finer loses its detail."""
    stages = [
        {tap.alias or tap.name for tap in side.values() if tap.name.startswith("stage")}
        for side in (student, teacher)
    ]
    return [
        f"losses.{number} pairs unequal strides: student {ours} 1/{student[ours].stride}, teacher {theirs} 1/{teacher[theirs].stride}"
        for number, _, ours, theirs in _pairs(recipe, student, teacher)
        if ours in stages[0]
        and theirs in stages[1]
        and student[ours].stride != teacher[theirs].stride
    ]
