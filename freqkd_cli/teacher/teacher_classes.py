"""Compare the teacher's classes with those of the data, and map them where a recipe says how."""

from __future__ import annotations

import json
import re
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
    """Return the recipe's ``teacher.class_map`` for a built teacher, or None where it has none.

    Raises:
        RecipeError: names the line of every class that is missing or named twice.
    """
    if recipe.teacher is None or recipe.teacher.class_map is None:
        return None
    mapping, problems = resolve(
        recipe.teacher.class_map, getattr(teacher, "id2label", None), teacher.classes, classes
    )
    if problems:
        raise recipe.error([(recipe_facts.map_key(key), text) for key, text in problems])
    return mapping


def build_scored_teacher(recipe: Recipe, classes: Sequence[str]) -> nn.Module:
    """Return the recipe's teacher, with the data's classes where the recipe maps them.

    Raises:
        WeightsMissing, RecipeError: as ``assemble.build_teacher`` and :func:`class_map` do.
    """
    _refuse_new_head(recipe)
    teacher = assemble.build_teacher(recipe, len(classes))
    mapping = class_map(recipe, teacher, classes)
    return teacher if mapping is None else Mapped(teacher, mapping)


def same_classes(model: nn.Module, classes: Sequence[str]) -> bool:
    """Return whether a model has these classes in this order.

    Capitals and separators are ignored, and a model without class names passes.
    """
    names = _names(model)
    return model.classes == len(classes) and (
        not names or [*map(_plain, names)] == [*map(_plain, classes)]
    )


def _names(model: nn.Module) -> tuple[str, ...]:
    """Return the class names of a model in order; empty where they are placeholders."""
    known = getattr(model, "id2label", None) or {}
    names = tuple(known[number] for number in sorted(known))
    return (
        () if all(name.upper().startswith("LABEL_") or name.isdigit() for name in names) else names
    )


def _plain(name: str) -> str:
    # NVIDIA's names for ADE20K contain "bed " with a trailing space.
    return name.strip().lower().replace("_", " ").replace("-", " ")


def check_teacher_classes(plan: assemble.Plan, teacher: nn.Module) -> ClassMap | None:
    """Refuse a teacher with other classes where a loss compares class scores; return the class map.

    Raises:
        RecipeError: numbers or names of the classes differ and the recipe maps none, or the map
            names classes that are missing.
    """
    mapping = class_map(plan.recipe, teacher, plan.classes)
    names = _names(teacher)
    readers = [
        line.id
        for line in plan.recipe.losses
        if registry.find("losses", line.name).build(**line.arguments).reads_logits
        and line.weight > 0
    ]
    if readers:
        _refuse_new_head(plan.recipe, f"{', '.join(readers)} compares class scores")
    if readers and mapping is None and not same_classes(teacher, plan.classes):
        raise RecipeError(
            "the teacher's classes are not the data set's, and "
            f"{', '.join(readers)} compares class scores",
            got=f"{teacher.classes} classes: {_some(names) or 'unnamed'}",
            need=f"{len(plan.classes)} classes: {_some(plan.classes)}",
            tip=f"{_map_tip(names, plan.classes)}, or leave that loss out, "
            "or fine-tune the teacher on these classes",
            key="teacher.class_map",
        )
    return mapping


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


def _map_tip(names: Sequence[str], classes: Sequence[str]) -> str:
    """Return the class map of the names that both have, to be pasted where these are several."""
    teacher_names = {_plain(name): name for name in names}
    pairs = [(teacher_names[_plain(c)], c) for c in classes if _plain(c) in teacher_names]
    if len(pairs) == 1 and len(names) == len(classes) == 2:  # the other two belong together
        ((known, own),) = pairs
        pairs += [(n, c) for n in names if n != known for c in classes if c != own]
    listed = ", ".join(f"{_quoted(name)}: {_quoted(own)}" for name, own in pairs)
    if len(pairs) > 1 and len({name for name, _ in pairs}) == len(pairs):
        return f"--set 'teacher.class_map={{{listed}}}'"
    return f"teacher.class_map: {{{listed or 'teacher class, by name or number: data class'}, ...}}"


def _quoted(name: str) -> str:
    """Return a name as YAML's flow style reads it back, inside the shell's single quotes."""
    plain = re.fullmatch(r"[A-Za-z_][\w .-]*", name) and name == name.strip()
    words = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")
    if plain and name.lower() not in words:
        return name
    return json.dumps(name, ensure_ascii=False).replace("'", "\\u0027")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (" ..." if len(names) > 6 else "")
