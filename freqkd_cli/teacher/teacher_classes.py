"""Compare the teacher's classes with those of the data, and map them where a recipe says how."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from freqkd_cli import registry
from freqkd_cli.build import assemble, recipe_facts
from freqkd_cli.errors import RecipeError, WeightsMissing
from freqkd_cli.features.class_map import ClassMap, Mapped, resolve
from freqkd_cli.features.class_names import (
    Classes,
    Classified,
    class_map_tip,
    known_names,
    listed_names,
    same_classes,
)
from freqkd_cli.features.trained_weights import names_on_record

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import Recipe


def class_map(recipe: Recipe, teacher: nn.Module, classes: Sequence[str]) -> ClassMap | None:
    """Return the recipe's ``teacher.class_map`` for a built teacher, or None where it has none.

    That of an ensemble leaves out the classes that none of its members covers.

    Raises:
        RecipeError: names the line of every class that is missing or named twice.
    """
    if recipe.teacher is None or recipe.teacher.class_map is None:
        return getattr(teacher, "class_map", None)
    mapping, problems = resolve(
        recipe.teacher.class_map, getattr(teacher, "id2label", None), teacher.classes, classes
    )
    if problems:
        raise recipe.error([(recipe_facts.map_key(key), text) for key, text in problems])
    return mapping


def build_scored_teacher(recipe: Recipe, classes: Sequence[str]) -> nn.Module:
    """Return the recipe's teacher, with the data's classes where the recipe maps them.

    Raises:
        WeightsMissing, RecipeError: as :func:`require_network`, ``assemble.build_teacher`` and
            :func:`class_map` do.
    """
    _refuse_new_head(recipe)
    require_network(recipe)
    teacher = assemble.build_teacher(recipe, len(classes))
    mapping = class_map(recipe, teacher, classes)
    return teacher if mapping is None else Mapped(teacher, mapping)


def require_network(recipe: Recipe) -> None:
    """Refuse a teacher that cannot run on the images of a split.

    Raises:
        WeightsMissing: the teacher is a folder of saved outputs, without any for other images.
    """
    if recipe.teacher and not registry.reads_images(recipe.teacher.name):
        raise WeightsMissing(
            "saved outputs belong to images of the training split, and no network runs on others",
            need="a teacher with weights",
            tip="freqkd eval RECIPE --predictions DIR scores saved labels",
            key="teacher.name",
        )


def check_teacher_classes(checked: assemble.CheckedRecipe, teacher: nn.Module) -> ClassMap | None:
    """Refuse a teacher with other classes where a loss compares class scores; return the class map.

    Raises:
        RecipeError: numbers or names of the classes differ and the recipe maps none, or the map
            names classes that are missing.
    """
    mapping = class_map(checked.recipe, teacher, checked.classes)
    _check_classes(checked, teacher, mapped=mapping is not None)
    return mapping


def check_recorded_classes(checked: assemble.CheckedRecipe) -> None:
    """Compare the classes as above, as far as they are known without building the teacher.

    Raises:
        RecipeError: as :func:`check_teacher_classes`, except for what is wrong with a class map.
    """
    section, logits = checked.recipe.teacher, checked.teacher_taps.get("logits")
    if section is None or logits is None:
        return
    names = names_on_record(section.name, section.arguments, section.weights)
    mapped = bool(recipe_facts.class_maps(checked.recipe))
    _check_classes(checked, Classes(logits.channels, names), mapped=mapped)


def _check_classes(checked: assemble.CheckedRecipe, teacher: Classified, *, mapped: bool) -> None:
    readers = [
        line.id
        for line in checked.recipe.losses
        if line.weight > 0
        and registry.find("losses", line.name).build(**line.arguments).reads_logits
    ]
    if not readers:
        return
    _refuse_new_head(checked.recipe, f"{', '.join(readers)} compares class scores")
    if mapped or same_classes(teacher, checked.classes):
        return
    names = known_names(teacher)
    raise RecipeError(
        "the teacher's classes are not the data set's, and "
        f"{', '.join(readers)} compares class scores",
        got=f"{teacher.classes} classes: {listed_names(names) or 'unnamed'}",
        need=f"{len(checked.classes)} classes: {listed_names(checked.classes)}",
        tip=class_map_tip("teacher.class_map", names, checked.classes)
        + ", or leave that loss out, or fine-tune the teacher on these classes",
        key="teacher.class_map",
    )


def _refuse_new_head(recipe: Recipe, reader: str | None = None) -> None:
    """Refuse a teacher whose class scores would be random, where something reads them."""
    if recipe.teacher is not None and recipe.teacher.arguments.get("head") == "new":
        raise RecipeError(
            "the teacher's head is new, so its class scores are random",
            got=f"teacher.head new{f', and {reader}' if reader else ''}",
            need="a teacher that was trained on classes",
            tip="--set 'teacher.head=keep' (if its weights have a head)"
            + (", or leave that loss out" if reader else ""),
            key="teacher.head",
        )
