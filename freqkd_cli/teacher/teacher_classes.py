"""A teacher's classes beside those of the data: whether they are the same, and the recipe's map where they are not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from freqkd_cli import registry
from freqkd_cli.build import assemble, recipe_facts
from freqkd_cli.build.class_map import ClassMap, Mapped, resolve
from freqkd_cli.errors import RecipeError

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import Recipe


def class_map(recipe: Recipe, teacher: nn.Module, classes: Sequence[str]) -> ClassMap | None:
    """The recipe's ``teacher.class_map`` for a teacher that was built; None where the recipe has none.

    Raises:
        RecipeError: with the line of every class that is not there, or is named twice.
    """
    if recipe.teacher is None or recipe.teacher.class_map is None:
        return None
    found, wrong = resolve(
        recipe.teacher.class_map, getattr(teacher, "id2label", None), teacher.classes, classes
    )
    if wrong:
        raise recipe.error([(recipe_facts.map_key(key), text) for key, text in wrong])
    return found


def build_scored_teacher(recipe: Recipe, classes: Sequence[str]) -> nn.Module:
    """The recipe's teacher in the data's classes where the recipe maps them, else as it is.

    Raises:
        WeightsMissing, RecipeError: as :func:`freqkd_cli.build.assemble.build_teacher` and :func:`class_map`.
    """
    teacher = assemble.build_teacher(recipe, len(classes))
    found = class_map(recipe, teacher, classes)
    return teacher if found is None else Mapped(teacher, found)


def same_classes(model: nn.Module, classes: Sequence[str]) -> bool:
    """Whether a model has these classes in this order; spelling in capitals and of blanks, and a model without names, are let pass."""
    names = _names(model)
    return model.classes == len(classes) and (
        not names or [*map(_plain, names)] == [*map(_plain, classes)]
    )


def _names(model: nn.Module) -> tuple[str, ...]:
    """Class names of a model in their order; none where they are made up."""
    known = getattr(model, "id2label", None) or {}
    names = tuple(known[number] for number in sorted(known))
    return (
        () if all(name.upper().startswith("LABEL_") or name.isdigit() for name in names) else names
    )


def _plain(name: str) -> str:
    return (
        name.strip().lower().replace("_", " ").replace("-", " ")
    )  # NVIDIA's names for ADE20K hold "bed "


def check_teacher_classes(plan: assemble.Plan, teacher: nn.Module) -> ClassMap | None:
    """Refuse a teacher with other classes where a loss compares class scores and the recipe maps none; the map, where it has one.

    Raises:
        RecipeError: numbers or names of the classes differ, or the map names classes that are not there.
    """
    found = class_map(plan.recipe, teacher, plan.classes)
    names = _names(teacher)
    same = found is not None or same_classes(teacher, plan.classes)
    readers = [
        line.id
        for line in plan.recipe.losses
        if registry.find("losses", line.name).build(**line.arguments).reads_logits
        and line.weight > 0
    ]
    if not same and readers:
        raise RecipeError(
            f"the teacher's classes are not the data set's, and {', '.join(readers)} compares class scores",
            got=f"{teacher.classes} classes: {_some(names) or 'unnamed'}",
            need=f"{len(plan.classes)} classes: {_some(plan.classes)}",
            tip=f"teacher.class_map: {{{_shared(names, plan.classes)}}}; or leave that loss out; or fine-tune the teacher on these classes",
        )
    return found


def _shared(names: Sequence[str], classes: Sequence[str]) -> str:
    """A class map to start from: the names that both have, as far as they fit on a line."""
    theirs = {_plain(name): name for name in names}
    pairs = [f"{theirs[_plain(name)]}: {name}" for name in classes if _plain(name) in theirs]
    return ", ".join(
        [*pairs[:4], "..."] if pairs else ["teacher class, by name or number: data class", "..."]
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (" ..." if len(names) > 6 else "")
