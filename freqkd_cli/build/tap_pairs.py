"""Problems between the loss lines of a recipe that compare a student tap with a teacher tap."""

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
    """Yield (number, line, student tap, teacher tap) of every line with a weight.

    An alias is resolved to the tap that it stands for.
    """
    for number, line in enumerate(recipe.losses):
        student_tap, teacher_tap = (line.arguments.get(side) for side in ("student", "teacher"))
        if line.weight > 0 and student_tap in student and teacher_tap in teacher:
            yield number, line, stored_as(student_tap, student), stored_as(teacher_tap, teacher)


def doubled(
    recipe: Recipe, student: Mapping[str, Tap], teacher: Mapping[str, Tap]
) -> list[tuple[str, str]]:
    """Return (key path, problem) of every line that repeats an earlier one in all arguments.

    One of the two was meant for another stage.
    """
    first: dict[tuple[object, ...], int] = {}
    problems = []
    for number, line, student_tap, teacher_tap in _pairs(recipe, student, teacher):
        rest = sorted(
            (name, repr(value))
            for name, value in line.arguments.items()
            if name not in ("student", "teacher")
        )
        before = first.setdefault((line.name, student_tap, teacher_tap, *rest), number)
        if before != number:
            pair = f"student {student_tap} with teacher {teacher_tap}"
            text = f"{line.name} compares {pair}, as losses.{before} does; need another tap"
            problems.append((f"losses.{number}", text))
    return problems


def unequal(recipe: Recipe, student: Mapping[str, Tap], teacher: Mapping[str, Tap]) -> list[str]:
    """Return a warning for every pair of stages of unequal strides: the finer loses its detail."""
    stages = [
        {tap.alias or tap.name for tap in side.values() if tap.name.startswith("stage")}
        for side in (student, teacher)
    ]
    return [
        f"losses.{number} pairs unequal strides: student {student_tap} "
        f"1/{student[student_tap].stride}, teacher {teacher_tap} 1/{teacher[teacher_tap].stride}"
        for number, _, student_tap, teacher_tap in _pairs(recipe, student, teacher)
        if student_tap in stages[0]
        and teacher_tap in stages[1]
        and student[student_tap].stride != teacher[teacher_tap].stride
    ]
