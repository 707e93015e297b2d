"""The classes of an ensemble's members, compared with each other and with those of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from freqkd_cli.errors import RecipeError
from freqkd_cli.features.class_map import ClassMap, resolve
from freqkd_cli.features.class_names import (
    Classified,
    class_map_tip,
    known_names,
    listed_names,
    same_classes,
)
from freqkd_cli.models._ensemble_member import Member


def resolved_maps(
    members: Sequence[Member], models: Sequence[Classified], classes: Sequence[str]
) -> list[ClassMap | None]:
    """Return the map of every member, None where its classes are those of the ensemble.

    Args:
        classes: the class names of the data.

    Raises:
        RecipeError: as :func:`require_same`, or a map names unknown classes.
    """
    require_same(members, models, classes)
    return [
        _resolved(number, member.class_map, model, classes) if member.class_map else None
        for number, (member, model) in enumerate(zip(members, models, strict=True))
    ]


def _resolved(
    number: int, class_map: Mapping[str, str], model: Classified, classes: Sequence[str]
) -> ClassMap:
    mapping, problems = resolve(class_map, model.id2label, model.classes, classes)
    if problems:
        text = "; ".join(f"{key}: {text}" if key else text for key, text in problems)
        raise RecipeError(text, key=f"members.{number}.class_map")
    return mapping


def require_same(
    members: Sequence[Member], models: Sequence[Classified], classes: Sequence[str]
) -> None:
    """Compare the members without class map: with the data where others have one, else mutually.

    Args:
        classes: the class names of the data; empty where they are not known.

    Raises:
        RecipeError: a member has other classes.
    """
    mapped = any(member.class_map for member in members)
    if mapped and not classes:
        return
    first = next((model for model in models if known_names(model)), models[0])
    wanted = classes if mapped else known_names(first) or [str(i) for i in range(first.classes)]
    plain = [number for number, member in enumerate(members) if not member.class_map]
    other = [number for number in plain if not same_classes(models[number], wanted)]
    if not other:
        return
    if classes and not mapped:  # those that the data differ from
        other = [n for n in plain if not same_classes(models[n], classes)] or other
    key = f"members.{other[0]}.class_map"
    lines = []
    for member, model in zip(members, models, strict=True):
        names = known_names(model)
        place = ", ".join(filter(None, (member.name, member.weights)))
        lines.append(f"({place}) {model.classes} classes: {listed_names(names) or 'unnamed'}")
    raise RecipeError(
        "the members have other classes, and no class_map for them",
        got="; ".join(f"members.{number} {line}" for number, line in enumerate(lines)),
        need="the same classes in the same order, or a class_map to those of the data"
        + (f": {listed_names(classes)}" if classes else ""),
        tip=class_map_tip(f"teacher.{key}", known_names(models[other[0]]), classes),
        key=key,
    )
