"""One line of a recipe's ``losses`` as an object, checked against the taps of both models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from freqkd_cli import registry
from freqkd_cli.build.objective import Line
from freqkd_cli.errors import RecipeError
from freqkd_cli.features.taps import Tap, by_name, pick
from freqkd_cli.views.view import MULTIPLE

if TYPE_CHECKING:
    from freqkd_cli.build.assemble import Plan


def _check_nodes(taps: Sequence[Tap], side: str, size: tuple[int, int]) -> None:
    """Refuse a graph whose nodes do not divide the view: the two models' nodes would not match.

    Raises:
        RecipeError: the tap, its nodes and a usable size are named.
    """
    for tap in taps:
        # Only what no multiple of 32 can fix; other sizes are a problem of data.size.
        if (
            tap.kind in ("nodes", "graph")
            and any(n % tap.stride for n in size)
            and MULTIPLE % tap.stride
        ):
            raise RecipeError(
                f"the {side}'s {tap.name} has nodes of {tap.stride}x{tap.stride} pixels, "
                "which do not divide the view",
                got=f"data.size {list(size)}",
                need=f"multiples of {math.lcm(MULTIPLE, tap.stride)}",
            )


def build_line(plan: Plan, number: int) -> Line:
    """Return one loss line as an object, with adapters for the taps it names."""
    spec = plan.recipe.losses[number]
    loss = registry.find("losses", spec.name).build(**spec.arguments)
    loss.seed, loss.number = plan.recipe.train.seed, number
    for side, taps in (("student", plan.student_taps), ("teacher", plan.teacher_taps)):
        if side == "teacher" and not taps and "teacher" in spec.arguments:
            raise RecipeError(
                f"{spec.name} compares with a teacher, and the recipe has none",
                tip="add a `teacher:` section",
                key="teacher",
            )
        if isinstance(spec.arguments.get(side), str):
            pick(
                tuple(taps.values()),
                spec.arguments[side],
                f"the {side} {getattr(plan.recipe, side).name!r}",
                key=side,
            )
    student, teacher = loss.student_taps(plan.student_taps), loss.teacher_taps(plan.teacher_taps)
    if loss.reads_logits and not loss.needs_labels and not plan.teacher_taps:
        raise RecipeError(
            f"{spec.name} compares with a teacher, and the recipe has none",
            tip="add a `teacher:` section",
        )
    size = plan.view_spec.size
    _check_nodes([plan.student_taps[name] for name in student], "student", size)
    _check_nodes([plan.teacher_taps[name] for name in teacher], "teacher", size)
    compared = plan.compared if loss.reads_logits else None
    if compared and loss.needs_labels:
        raise RecipeError(
            f"{spec.name} reads labels of classes that teacher.class_map does not cover",
            tip="map a teacher class onto every data class",
        )
    student_specs = by_name(plan.student_taps.values(), student)
    if compared:
        student_specs["logits"] = replace(student_specs["logits"], channels=len(compared))
    loss.start(
        student_specs, by_name(plan.teacher_taps.values(), teacher), len(compared or plan.classes)
    )
    loss.check_grids(
        {name: plan.student_taps[name].grid(*size) for name in student},
        {name: plan.teacher_taps[name].grid(*size) for name in teacher},
    )
    return Line(spec.id, loss, spec.weight, spec.warmup, student, teacher, compared)
