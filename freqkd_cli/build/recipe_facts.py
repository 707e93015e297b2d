"""Classes, views and taps of a recipe, from its names and signatures alone."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqkd_cli import registry
from freqkd_cli.errors import DataMissing, FreqKDError, RecipeError, UsageError
from freqkd_cli.features.class_map import covered
from freqkd_cli.features.class_names import MADE_UP
from freqkd_cli.features.taps import Tap
from freqkd_cli.features.trained_weights import in_section, names_on_record, trained_classes
from freqkd_cli.views.view import ViewSpec
from freqkd_cli.weights.hub import is_path

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import Recipe


def classes_of(recipe: Recipe, data: bool) -> tuple[str, ...]:
    """Return the class names of the recipe's data set.

    Without ``data``, names that only the folder of the data has are replaced: by none where there
    is a teacher, else by two.

    Raises:
        DataMissing: with ``data``, the folder is not there.
    """
    try:
        return class_names(recipe)
    except DataMissing:
        if data:
            raise
        return () if recipe.teacher else ("class0", "class1")


def class_names(recipe: Recipe) -> tuple[str, ...]:
    """Return the class names of the recipe's data set."""
    module = registry.find("datasets", recipe.data.name)
    return tuple(
        module.classes(
            **_accepted(module.classes, recipe.data.arguments | {"root": recipe.data.root})
        )
    )


def single_class(recipe: Recipe, name: str) -> RecipeError:
    """Return the error for data with one class, where no mask shows which value it has."""
    names = f'"background", {json.dumps(name, ensure_ascii=False)}'
    text = f"one class is no segmentation, need at least two classes: background and {name}"
    return recipe.error([("data.classes", f"{text}; try --set 'data.classes=[{names}]'")])


def classes_of_teacher(
    recipe: Recipe, taps: Mapping[str, Tap], names: Mapping[int, str] | None
) -> tuple[str, ...]:
    """Return the classes of a recipe whose images have no masks, and so no class names.

    They are those of the class map, or the teacher's, with made-up names where its weights have
    none on record.

    Args:
        taps: those of the teacher.
        names: those of its classes, where a cache has them.

    Raises:
        RecipeError: there is no teacher with logits.
    """
    if mapped := _mapped_names(recipe):
        return mapped
    if "logits" not in taps:
        raise recipe.error(
            [
                (
                    "data.name",
                    "neither the data nor a teacher names any classes; give data.classes",
                )
            ]
        )
    section = recipe.teacher
    known = names or names_on_record(section.name, section.arguments, section.weights)
    if len(known) == taps["logits"].channels:
        return tuple(known[number] for number in sorted(known))
    return tuple(f"{MADE_UP}{number}" for number in range(taps["logits"].channels))


def class_maps(recipe: Recipe) -> dict[str, Mapping[str, str] | None]:
    """Return the class map of the teacher by its key; those of an ensemble's members, if any."""
    section = recipe.teacher
    if section is None:
        return {}
    of_members = getattr(registry.find("models", section.name), "class_maps", None)
    maps = of_members(**section.arguments) if of_members else {}
    if any(maps.values()):
        return {f"teacher.{key}": mapping for key, mapping in maps.items()}
    return {"teacher.class_map": section.class_map} if section.class_map else {}


def _mapped_names(recipe: Recipe) -> tuple[str, ...]:
    """Return the classes of the data that class maps name, each once."""
    maps = [mapping for mapping in class_maps(recipe).values() if mapping]
    return tuple(dict.fromkeys(name for mapping in maps for name in mapping.values()))


def named_classes(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Return the data's class names as an argument of the teacher, where it takes them."""
    assert recipe.teacher is not None
    if "class_names" not in registry.takes("models", recipe.teacher.name):
        return {}
    return {"class_names": class_names(recipe) or _mapped_names(recipe)}


def mapped_classes(
    recipe: Recipe, classes: Sequence[str]
) -> tuple[tuple[int, ...], list[tuple[str, str]]]:
    """Return the numbers of the classes that the teacher's class map covers, and its problems.

    A class is covered by an ensemble if any member covers it. Without a class map there are none.
    """
    numbers: set[int] = set()
    problems = []
    maps = class_maps(recipe)
    for key, mapping in maps.items():
        known, texts = covered(mapping, classes) if mapping else (range(len(classes)), [])
        numbers |= set(known)
        problems += [(f"{key}.{name}".rstrip("."), text) for name, text in texts]
    if "teacher.class_map" not in maps and maps and recipe.teacher.class_map:
        text = "members have a class_map, so the ensemble has the classes of the data already"
        problems.append(("teacher.class_map", text))
    return tuple(sorted(numbers)), problems


def map_key(key: str) -> str:
    """Return the path of a line of ``teacher.class_map`` in the recipe."""
    return f"teacher.class_map.{key}".rstrip(".")


def _accepted(function: Any, keywords: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in keywords.items()
        if key in inspect.signature(function).parameters
    }


def view_spec(recipe: Recipe) -> ViewSpec:
    """Return how views are drawn."""
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
    """Return the named taps of the recipe's student or teacher.

    Args:
        classes: K of the data; a teacher from a run of other classes has those of the run.

    Raises:
        RecipeError: an argument of the model is wrong; the error points at it.
        WeightsMissing: the weights of the teacher are damaged.
    """
    section = getattr(recipe, role)
    module, names = registry.find("models", section.name), {}
    if role == "teacher":
        classes = trained_classes(section.weights, classes)
        with suppress(DataMissing):  # then the names are compared when the teacher is built
            names = named_classes(recipe)
    try:
        with tips_of(role):
            listed = module.taps(classes=classes, **section.arguments, **names)
            return {tap.name: tap for tap in listed}
    except UsageError as error:
        raise recipe.error([(place(role, error, "name"), error.line)]) from error


@contextmanager
def tips_of(role: str) -> Iterator[None]:
    """Complete the tips of a model's errors, such as ``--set 'weights=X'``, with its section."""
    try:
        yield
    except FreqKDError as error:
        if error.tip:
            error.tip = in_section(error.tip, role)
        raise


def place(path: str, error: FreqKDError, default: str = "") -> str:
    """Return the key path of an error about the section ``path``; its own key where it has one."""
    return f"{path}.{error.key or default}".rstrip(".")


def missing_encoders(recipe: Recipe) -> list[str]:
    """Return a line for each file of pretrained encoder weights that is not on this machine."""
    models = {"student": recipe.student.arguments, **_teachers(recipe)}
    files = {f"{key}.encoder_weights": x.get("encoder_weights") for key, x in models.items()}
    return [
        f"{key}: {file} does not exist here, and the model cannot be built without it"
        for key, file in files.items()
        if file and is_path(file) and not Path(file).expanduser().exists()
    ]


def untrained_teachers(recipe: Recipe) -> Iterator[str]:
    """Yield a warning for each teacher, or member of an ensemble, without weights."""
    reads_images = recipe.teacher is None or registry.reads_images(recipe.teacher.name)
    for key, model in _teachers(recipe).items() if reads_images else ():
        if not model.get("weights"):
            yield f"{key}: no weights, so its class scores are random; add weights: FOLDER"


def _teachers(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Return the arguments of the teacher, or of each member of an ensemble, by recipe key."""
    if recipe.teacher is None:
        return {}
    arguments = recipe.teacher.arguments
    if members := arguments.get("members"):
        return {f"teacher.members.{n}": dict(member) for n, member in enumerate(members)}
    return {"teacher": {"weights": recipe.teacher.weights, **arguments}}


def weights_of_teacher(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield recipe key and value of all weights, or saved outputs, that the teacher names."""
    for key, model in _teachers(recipe).items():
        for argument in ("weights", "encoder_weights", "root"):
            if isinstance(name := model.get(argument), str):
                yield f"{key}.{argument}", name


def fetch_descriptions(recipe: Recipe, *, teacher: bool = True) -> None:
    """Get the descriptions of both models' weights onto this machine, or of the student's alone."""
    roles = (("student", recipe.student), ("teacher", recipe.teacher if teacher else None))
    for role, section in roles:
        fetching = section and getattr(registry.find("models", section.name), "fetch", None)
        with tips_of(role):
            if fetching:
                fetching(**section.arguments)
