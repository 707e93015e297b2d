"""The only place that turns a recipe's names into objects, and the check of the whole recipe.

:func:`check` needs no data, no weights and no built model: taps and signatures are data. The
``build_`` functions make the objects.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from freqkd_cli import registry
from freqkd_cli.build import tap_pairs, training_images
from freqkd_cli.build.loss_lines import build_line, check_lines, few_cells
from freqkd_cli.build.objective import Line
from freqkd_cli.build.recipe_facts import (
    classes_of,
    classes_of_teacher,
    fetch_descriptions,
    mapped_classes,
    named_classes,
    place,
    single_class,
    taps_of,
    tips_of,
    untrained_teachers,
    view_spec,
)
from freqkd_cli.errors import DataBroken, Missing, RecipeError, UsageError
from freqkd_cli.features.taps import Tap
from freqkd_cli.features.trained_weights import build_trained, load_state
from freqkd_cli.spectral.masks import BandCells
from freqkd_cli.views.view import MULTIPLE, ViewSpec

if TYPE_CHECKING:
    from pathlib import Path

    from freqkd_cli.cache.stored_teacher import StoredTeacher
    from freqkd_cli.images.dataset import Dataset
    from freqkd_cli.recipe.sections import Recipe

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckedRecipe:
    """A recipe without mistakes, with all that is known before data and weights are read.

    Attributes:
        compared: numbers of the classes that losses on logits compare, where
            ``teacher.class_map`` does not cover them all.
        bands: id of a loss line -> the effective cells of its frequency bands.
        stored: the teacher of a cache, where the recipe's own is not on this machine.
    """

    recipe: Recipe
    classes: tuple[str, ...]
    view_spec: ViewSpec
    student_taps: Mapping[str, Tap]
    teacher_taps: Mapping[str, Tap]
    compared: tuple[int, ...] | None = None
    bands: Mapping[str, tuple[BandCells, ...]] = field(default_factory=dict)
    stored: StoredTeacher | None = None

    @property
    def grids(self) -> dict[str, tuple[int, int]]:
        """Return student tap -> (h, w) on this recipe's views."""
        return {name: tap.grid(*self.view_spec.size) for name, tap in self.student_taps.items()}


def check(
    recipe: Recipe,
    *,
    fetch: bool = False,
    data: bool = True,
    stored: StoredTeacher | None = None,
) -> CheckedRecipe:
    """Check names, taps, bands and classes against each other.

    Args:
        fetch: get the descriptions of the weights first, from a hub if need be. Without it
            nothing is downloaded, and weights that are not on this machine count as of the variant
            that the recipe names.
        data: without it, classes that only the data set's folder can name are replaced by the
            teacher's, or by two.
        stored: the teacher of a cache, where the recipe's own is not on this machine.

    Raises:
        RecipeError: with every problem of the recipe that no section shows alone.
        UsageError: the data has one class.
        DataMissing: only the data set's folder names the classes, and it is not there.
        WeightsMissing: with ``fetch``, weights that are nowhere.
    """
    if fetch:
        fetch_descriptions(recipe, teacher=stored is None)
    classes = classes_of(recipe, data)
    if len(classes) == 1:
        with suppress(Missing, DataBroken):
            build_dataset(recipe, "train")  # its error fits the values of the masks
        raise single_class(recipe, classes[0])
    checked, problems = _described(recipe, classes, stored)
    problems += training_images.problems(recipe, checked.teacher_taps)
    if checked.student_taps["logits"].channels != len(checked.classes):
        given, need = checked.student_taps["logits"].channels, len(checked.classes)
        takes = registry.takes("models", recipe.student.name)
        tip = "; try --set 'student.head=new'" if "head" in takes else ""
        text = f"the student's weights have {given} classes and the data {need}{tip}"
        problems.append(("student.weights", text))
    if recipe.teacher and recipe.teacher.weights and "members" in recipe.teacher.arguments:
        text = "the members of an ensemble have their own weights; remove this key"
        problems.append(("teacher.weights", text))
    line_problems, bands, warnings = check_lines(checked)
    problems += line_problems
    size = checked.view_spec.size
    if any(n % MULTIPLE for n in size):
        need = f"both sides must be multiples of {MULTIPLE}"
        near = [max(MULTIPLE, n - n % MULTIPLE) for n in size]
        text = f"{need}, so that all grids cover the same pixels; got {list(size)}"
        text += f"; try --set 'data.size={near}'"
        problems.append(("data.size", text))
    problems += tap_pairs.doubled(recipe, checked.student_taps, checked.teacher_taps)
    if problems:
        raise recipe.error(problems)
    unequal = tap_pairs.unequal(recipe, checked.student_taps, checked.teacher_taps)
    for text in (*unequal, *few_cells(bands), *warnings, *untrained_teachers(recipe)):
        log.warning("%s: %s", recipe.source, text)
    return replace(checked, bands=bands, stored=stored)


def _described(
    recipe: Recipe, classes: tuple[str, ...], stored: StoredTeacher | None
) -> tuple[CheckedRecipe, list[tuple[str, str]]]:
    """Return the taps and classes of a recipe, and the problems of its class map.

    Args:
        classes: those of the data; none where it names none.
    """
    if stored is not None:
        teacher = dict(stored.taps)
    else:
        teacher = taps_of(recipe, "teacher", len(classes)) if recipe.teacher else {}
    # Auxiliary logits are outputs of the training mode, in which a teacher never is.
    teacher = {name: tap for name, tap in teacher.items() if tap.kind != "auxiliary"}
    if not classes:
        names = stored.id2label if stored is not None else None
        classes = classes_of_teacher(recipe, teacher, names)
    student = taps_of(recipe, "student", len(classes))
    numbers, problems = mapped_classes(recipe, classes)
    if numbers:
        teacher["logits"] = replace(teacher["logits"], channels=len(numbers))
    compared = numbers if 0 < len(numbers) < len(classes) else None
    return CheckedRecipe(recipe, classes, view_spec(recipe), student, teacher, compared), problems


@torch.random.fork_rng(devices=[])
def build_lines(checked: CheckedRecipe) -> tuple[Line, ...]:
    """Return the recipe's losses; a line of weight 0 is not built, so it costs nothing."""
    lines = []
    for i, spec in enumerate(checked.recipe.losses):
        if spec.weight > 0:
            torch.manual_seed(checked.recipe.train.seed * 1_000_003 + i)
            lines.append(build_line(checked, i))
    if not lines:
        raise RecipeError(
            "every loss has weight 0, so there is nothing to train",
            tip="give one a weight above 0",
            key="losses",
        )
    return tuple(lines)


def build_dataset(recipe: Recipe, split: str, root: Path | None = None) -> Dataset:
    """Return one split of the recipe's data set.

    Args:
        root: the folder of the data set, instead of the recipe's.

    Raises:
        DataMissing: it is not where the recipe says.
        UsageError: a folder was given for a data set that reads none.
    """
    module = registry.find("datasets", recipe.data.name)
    given = root or recipe.options.get("data.root")
    by_option = given or any(text.startswith("data.root=") for text in recipe.sets)
    if by_option and not getattr(module, "READS_FOLDER", True):
        raise UsageError(
            f"the data set {recipe.data.name} is made on the fly and reads no folder",
            got=f"--data-root {given}" if given else "--set data.root",
            tip="leave it out, or use a recipe for your own data (data.name: folder)",
            key="data.root",
        )
    return module.build(
        split=split,
        root=root or recipe.data.root,
        size=tuple(recipe.data.size),
        **registry.keywords("datasets", recipe.data.name, recipe.data.arguments),
    )


def build_teacher(recipe: Recipe, classes: int) -> nn.Module:
    """Return the recipe's teacher, frozen.

    Raises:
        WeightsMissing: its weights are not there or do not fit.
        RecipeError: the recipe has no teacher.
    """
    if recipe.teacher is None:
        raise RecipeError("the recipe has no teacher", tip="add a `teacher:` section")
    section = recipe.teacher
    given = {**section.arguments, **named_classes(recipe)}
    torch.manual_seed(recipe.train.seed)
    try:
        with tips_of("teacher"):
            model = build_trained(
                section.name, classes=classes, arguments=given, weights=section.weights
            )
    except RecipeError as error:
        if (error.key or "").startswith("members."):
            raise recipe.error([(place("teacher", error), error.line)]) from error
        raise
    return model.eval().requires_grad_(False)


def build_student(checked: CheckedRecipe) -> nn.Module:
    """Return the recipe's student, initialised from ``train.seed`` or from ``student.weights``.

    Raises:
        WeightsMissing: ``student.weights`` is not a trained student of this architecture.
    """
    section = checked.recipe.student
    torch.manual_seed(checked.recipe.train.seed)
    with tips_of("student"):
        model = registry.find("models", section.name).build(
            classes=len(checked.classes), **section.arguments
        )
        model.id2label = dict(enumerate(checked.classes))
        if section.weights:
            load_state(section.weights, model)
    return model
