"""The only place that turns a recipe's names into objects, and the one check of the recipe as a whole.

:func:`check` needs no data, no weights and no built model: taps and signatures are data. :func:`build` makes the objects.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from freqkd_cli import registry
from freqkd_cli.build import tap_pairs
from freqkd_cli.build.objective import Line
from freqkd_cli.build.recipe_facts import (
    classes_of,
    classes_of_teacher,
    mapped_classes,
    place,
    taps_of,
    view_spec,
)
from freqkd_cli.errors import FreqKDError, RecipeError
from freqkd_cli.features.taps import Tap, by_name, pick
from freqkd_cli.views.view import MULTIPLE, ViewSpec

if TYPE_CHECKING:
    from pathlib import Path

    from freqkd_cli.images.dataset import Dataset
    from freqkd_cli.recipe.sections import Recipe

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What a recipe asks for, checked: everything that is known before data and weights are touched.

    ``compared``: numbers of the classes that losses of class scores compare, where ``teacher.class_map`` does not cover them all.
    """

    recipe: Recipe
    classes: tuple[str, ...]
    view_spec: ViewSpec
    student_taps: Mapping[str, Tap]
    teacher_taps: Mapping[str, Tap]
    compared: tuple[int, ...] | None = None

    @property
    def grids(self) -> dict[str, tuple[int, int]]:
        """Student tap -> (h, w) on this recipe's views."""
        return {name: tap.grid(*self.view_spec.size) for name, tap in self.student_taps.items()}


def check(recipe: Recipe, *, fetch: bool = False, data: bool = True) -> Plan:
    """Check names, taps, bands and classes against each other.

    Args:
        fetch: have the weights' descriptions here first, from a hub if need be. Without it nothing is downloaded, and weights
            that are not on this machine are taken to be of the variant that the recipe names.
        data: without it, classes that only the data set's folder can name are stood in for by the teacher's, or by two.

    Raises:
        RecipeError: with every problem of the recipe that does not show in one section alone.
        DataMissing: the classes are known to the data set's folder only, and it is not there.
        WeightsMissing: with ``fetch``, weights that are nowhere.
    """
    if fetch:
        _fetch(recipe)
    plan, problems = _plan(recipe, classes_of(recipe, data))
    if plan.student_taps["logits"].channels != len(plan.classes):
        text = f"the student's weights have {plan.student_taps['logits'].channels} classes and the data {len(plan.classes)}"
        problems.append(
            (
                "student.weights",
                text + ("; try head: new" if "head" in recipe.student.arguments else ""),
            )
        )
    problems += _line_problems(plan)
    size = plan.view_spec.size
    if any(n % MULTIPLE for n in size):
        text = f"both sides must be multiples of {MULTIPLE}, so that all grids cover the same pixels; got {list(size)}"
        problems.append(("data.size", text))
    problems += tap_pairs.doubled(recipe, plan.student_taps, plan.teacher_taps)
    if problems:
        raise recipe.error(problems)
    for text in tap_pairs.unequal(recipe, plan.student_taps, plan.teacher_taps):
        log.warning("%s: %s", recipe.source, text)
    return plan


def _fetch(recipe: Recipe) -> None:
    """Have what describes the weights of both models on this machine."""
    for section in filter(None, (recipe.student, recipe.teacher)):
        fetching = getattr(registry.find("models", section.name), "fetch", None)
        if fetching is not None:
            fetching(**section.arguments)


def _plan(recipe: Recipe, classes: tuple[str, ...]) -> tuple[Plan, list[tuple[str, str]]]:
    """The taps and classes of a recipe, and what is wrong with its class map. ``classes`` are the data's, none where it names none."""
    teacher = taps_of(recipe, "teacher", len(classes)) if recipe.teacher else {}
    if not classes:
        classes = classes_of_teacher(recipe, teacher)
    student = taps_of(recipe, "student", len(classes))
    numbers, problems = mapped_classes(recipe, classes)
    if numbers:
        teacher["logits"] = replace(teacher["logits"], channels=len(numbers))
    compared = numbers if 0 < len(numbers) < len(classes) else None
    return Plan(recipe, classes, view_spec(recipe), student, teacher, compared), problems


def _line_problems(plan: Plan) -> list[tuple[str, str]]:
    """What is wrong with each loss line by itself."""
    problems = []
    for i, line in enumerate(plan.recipe.losses):
        try:
            with torch.device("meta"):
                _line(plan, i)
        except FreqKDError as error:
            problems.append((place(f"losses.{i}", line.arguments, error), error.line))
    return problems


def _check_nodes(taps: Sequence[Tap], side: str, size: tuple[int, int]) -> None:
    """
    Raises:
        RecipeError: the nodes of a graph do not cover the view's pixels, so those of the two models would not be the same places.
    """
    for tap in taps:
        # What no multiple of 32 mends; sides that are none are told as such.
        if (
            tap.kind in ("nodes", "graph")
            and any(n % tap.stride for n in size)
            and MULTIPLE % tap.stride
        ):
            raise RecipeError(
                f"the {side}'s {tap.name} has nodes of {tap.stride}x{tap.stride} pixels, which do not divide the view",
                got=f"data.size {list(size)}",
                need=f"multiples of {math.lcm(MULTIPLE, tap.stride)}",
            )


def _line(plan: Plan, number: int) -> Line:
    """One loss line as an object, its adapters made for the taps it names."""
    spec = plan.recipe.losses[number]
    loss = registry.find("losses", spec.name).build(**spec.arguments)
    for side, taps in (("student", plan.student_taps), ("teacher", plan.teacher_taps)):
        if side == "teacher" and not taps and "teacher" in spec.arguments:
            raise RecipeError(
                f"{spec.name} compares with a teacher, and the recipe has none",
                tip="add a `teacher:` section",
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
            tip="a map onto every class",
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


@torch.random.fork_rng(devices=[])
def build_lines(plan: Plan) -> tuple[Line, ...]:
    """The recipe's losses; a line of weight 0 is not built, so it costs nothing."""
    lines = []
    for i, spec in enumerate(plan.recipe.losses):
        if spec.weight > 0:
            torch.manual_seed(plan.recipe.train.seed * 1_000_003 + i)
            lines.append(_line(plan, i))
    if not lines:
        raise RecipeError(
            "every loss has weight 0, so there is nothing to train", tip="give one a weight above 0"
        )
    return tuple(lines)


def check_labels(plan: Plan, lines: tuple[Line, ...], dataset: Dataset) -> None:
    """Refuse losses that read labels on pictures that have none.

    Raises:
        RecipeError: with the line of every such loss.
    """
    readers = [
        number
        for number, spec in enumerate(plan.recipe.losses)
        for line in lines
        if line.id == spec.id and line.loss.needs_labels
    ]
    if readers and not dataset.labelled:
        text = "reads labels, and these pictures have none; leave it out, or add a masks folder"
        raise plan.recipe.error([(f"losses.{number}", text) for number in readers])


def build_dataset(recipe: Recipe, split: str, root: Path | None = None) -> Dataset:
    """One split of the recipe's data set.

    Raises:
        DataMissing: it is not where the recipe says.
    """
    module = registry.find("datasets", recipe.data.name)
    return module.build(
        split=split,
        root=root or recipe.data.root,
        size=tuple(recipe.data.size),
        **recipe.data.arguments,
    )


def build_teacher(recipe: Recipe, classes: int) -> nn.Module:
    """The recipe's teacher, frozen.

    Raises:
        WeightsMissing: its weights are not there or do not fit.
        RecipeError: the recipe has no teacher.
    """
    if recipe.teacher is None:
        raise RecipeError("the recipe has no teacher", tip="add a `teacher:` section")
    torch.manual_seed(recipe.train.seed)
    names = _names_of(recipe.teacher.weights)
    model = registry.find("models", recipe.teacher.name).build(
        classes=len(names) or classes, **recipe.teacher.arguments
    )
    _take_weights(model, recipe.teacher.weights)
    model.id2label = names or model.id2label
    return model.eval().requires_grad_(False)


def _names_of(folder: str | None) -> dict[int, str]:
    """Class names that a trained run of freqkd says it has, for models whose own arguments name no weights."""
    if not folder:
        return {}
    from freqkd_cli.build.saved import class_names_of

    return class_names_of(folder)


def _take_weights(model: nn.Module, folder: str | None) -> None:
    """Weights of a trained run, for models whose own arguments name none."""
    if folder:
        from freqkd_cli.build.saved import load_state

        load_state(folder, model)


def build_student(plan: Plan) -> nn.Module:
    """The recipe's student, initialised from ``train.seed`` or from ``student.weights``.

    Raises:
        WeightsMissing: ``student.weights`` is no trained student of this architecture.
    """
    recipe = plan.recipe
    torch.manual_seed(recipe.train.seed)
    model = registry.find("models", recipe.student.name).build(
        classes=len(plan.classes), **recipe.student.arguments
    )
    model.id2label = dict(enumerate(plan.classes))
    _take_weights(model, recipe.student.weights)
    return model
