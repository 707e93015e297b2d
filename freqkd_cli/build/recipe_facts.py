"""What a recipe says of classes, views and taps, from its names and signatures alone; and where in it an error lies."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from freqkd_cli import registry
from freqkd_cli.build.class_map import covered
from freqkd_cli.errors import BandError, DataMissing, FreqKDError, UsageError
from freqkd_cli.features.taps import Tap
from freqkd_cli.views.view import ViewSpec

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import Recipe


def classes_of(recipe: Recipe, data: bool) -> tuple[str, ...]:
    """Class names of the recipe's data set; without ``data``, none or two stand in for those that only the data's folder knows.

    Raises:
        DataMissing: the data's folder is wanted, and it is not there.
    """
    try:
        return class_names(recipe)
    except DataMissing:
        if data:
            raise
        return () if recipe.teacher else ("class0", "class1")


def class_names(recipe: Recipe) -> tuple[str, ...]:
    """Class names of the recipe's data set."""
    module = registry.find("datasets", recipe.data.name)
    return tuple(
        module.classes(
            **_accepted(module.classes, recipe.data.arguments | {"root": recipe.data.root})
        )
    )


def classes_of_teacher(recipe: Recipe, taps: Mapping[str, Tap]) -> tuple[str, ...]:
    """Pictures without masks name no classes; then the student learns those of the class map, or as many as its teacher has."""
    if recipe.teacher is not None and recipe.teacher.class_map:
        return tuple(dict.fromkeys(recipe.teacher.class_map.values()))
    if "logits" not in taps:
        raise recipe.error(
            [
                (
                    "data.name",
                    "the data names no classes and the recipe no teacher that has some; give data.classes",
                )
            ]
        )
    return tuple(f"class{number}" for number in range(taps["logits"].channels))


def mapped_classes(
    recipe: Recipe, classes: Sequence[str]
) -> tuple[tuple[int, ...], list[tuple[str, str]]]:
    """Numbers of the classes that ``teacher.class_map`` covers, none without one, and what is wrong with their names."""
    if recipe.teacher is None or recipe.teacher.class_map is None:
        return (), []
    numbers, wrong = covered(recipe.teacher.class_map, classes)
    return numbers, [(map_key(key), text) for key, text in wrong]


def map_key(key: str) -> str:
    """Path of a line of ``teacher.class_map`` in the recipe."""
    return f"teacher.class_map.{key}".rstrip(".")


def _accepted(function: Any, keywords: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in keywords.items()
        if key in inspect.signature(function).parameters
    }


def view_spec(recipe: Recipe) -> ViewSpec:
    """How views are drawn."""
    augment = recipe.data.augment
    return ViewSpec(
        size=tuple(recipe.data.size),
        scale=tuple(augment.scale),
        flip=augment.flip,
        color=augment.color,
        blur=augment.blur,
        isolate=augment.isolate,
        teacher_sees=recipe.data.teacher_sees,
    )


def taps_of(recipe: Recipe, role: str, classes: int) -> dict[str, Tap]:
    """The named places of the recipe's student or teacher.

    Raises:
        RecipeError: an argument of it names no variant.
    """
    section = getattr(recipe, role)
    module = registry.find("models", section.name)
    try:
        return {tap.name: tap for tap in module.taps(classes=classes, **section.arguments)}
    except UsageError as error:
        key = next(
            (key for key, value in section.arguments.items() if repr(value) in error.what), "name"
        )
        raise recipe.error([(f"{role}.{key}", error.line)]) from error


def place(path: str, arguments: Mapping[str, Any], error: FreqKDError) -> str:
    """The key that an error of a loss line is about: that of an unknown tap, the cutoff of an empty band, else the line."""
    named = [key for key, value in arguments.items() if f"has no tap {value!r}" in error.what]
    if named:
        side = "student" if error.what.startswith("the student") else "teacher"
        return f"{path}.{side if side in named else named[0]}"
    cutoffs = (
        [key for key in ("cutoff", "cutoff_cycles") if key in arguments]
        if isinstance(error, BandError)
        else []
    )
    return f"{path}.{cutoffs[0]}" if cutoffs else path
