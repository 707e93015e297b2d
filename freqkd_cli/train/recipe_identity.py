"""A recipe as a run keeps it, and whether two recipes mean the same run.

A run stores its recipe with absolute paths, so that it can be scored from any working folder.
Recipes are compared as data: keys that change no result may differ, and a folder may be spelled
in another way.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from freqkd_cli import registry
from freqkd_cli.recipe.resolved import resolved
from freqkd_cli.recipe.value_types import Section
from freqkd_cli.runtime.leaves import leaves
from freqkd_cli.weights.hub import is_path

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import LossLine, Recipe

log = logging.getLogger(__name__)

FREE = (
    ("data", "workers"),
    ("data", "keep"),
    ("teacher", "min_iou"),
    ("train", "compile"),
    ("train", "save_every"),
    ("train", "previews"),
    ("train", "metrics"),
    ("train", "trackers"),
)
"""Keys that change no result but by rounding, so a resumed run may have other values."""
PATHS = (
    ("data", "root"),
    ("teacher", "weights"),
    ("teacher", "root"),
    ("teacher", "encoder_weights"),
    ("student", "weights"),
    ("student", "encoder_weights"),
)
"""Keys that may name a file or folder, by section and key."""
MEMBERS, OF_MEMBERS = ("teacher", "members"), ("weights", "encoder_weights")
"""The members of an ensemble, a list, and those keys of each."""
POOL_ROOT = ("data", "pool", "root")
"""Another one, in a section of ``data``."""
ADDED = {
    "cwd": {"student": "logits", "teacher": "logits"},
    "dist": {"student": "logits", "teacher": "logits"},
    "fam": {"form": "coarse"},
}
"""Loss -> keys that it got later, with the value that stands for their absence in digests."""


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """Return the recipe with every existing file or folder under an absolute path.

    Other values, such as ``embedded`` or the name of weights on a hub, stay as they are.
    """
    changes: dict[str, Section] = {}
    for name, key in PATHS:
        section = changes.get(name, getattr(recipe, name))
        if section is None:
            continue
        own = key in type(section).model_fields and getattr(section, key) is not None
        value = getattr(section, key) if own else section.arguments.get(key)
        path = _absolute(name, key, value)
        if path is None:
            continue
        if own:
            changes[name] = section.model_copy(update={key: type(value)(path)})
        else:
            arguments = {**section.arguments, key: type(value)(path)}
            changes[name] = section.model_copy(update={"arguments": arguments})
    teacher = changes.get("teacher", recipe.teacher)
    if teacher is not None and "members" in teacher.arguments:
        members = [_absolute_member(dict(member)) for member in teacher.arguments["members"]]
        arguments = {**teacher.arguments, "members": members}
        changes["teacher"] = teacher.model_copy(update={"arguments": arguments})
    data = changes.get("data", recipe.data)
    if data.pool is not None and data.pool.root is not None:
        pool = data.pool.model_copy(update={"root": data.pool.root.expanduser().absolute()})
        changes["data"] = data.model_copy(update={"pool": pool})
    losses = tuple(_with_absolute_files(line) for line in recipe.losses)
    return dataclasses.replace(recipe, **changes, losses=losses)


def _with_absolute_files(line: LossLine) -> LossLine:
    """Return a loss line whose files have absolute paths."""
    files = {key: line.arguments.get(key) for key in _file_arguments(line.name)}
    paths = {key: _absolute("losses", key, value) for key, value in files.items()}
    found = {key: str(path) for key, path in paths.items() if path is not None}
    return line.model_copy(update={"arguments": {**line.arguments, **found}}) if found else line


@cache
def _file_arguments(loss: str) -> frozenset[str]:
    """Return the arguments of a loss that are files, as its class declares them."""
    classes = (x for x in vars(registry.find("losses", loss)).values() if isinstance(x, type))
    return frozenset(key for kind in classes for key in getattr(kind, "file_arguments", ()))


def _absolute_member(member: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of an ensemble's member, paths absolute and without those of value null."""
    paths = {key: _absolute("teacher", key, member.get(key)) for key in OF_MEMBERS}
    member |= {key: str(path) for key, path in paths.items() if path is not None}
    return {key: value for key, value in member.items() if value is not None}


def _absolute(section: str, key: str, value: Any) -> Path | None:
    """Return the absolute path of a value that names something on this machine, else None."""
    if not isinstance(value, (str, Path)) or value == "embedded":
        return None
    if key == "encoder_weights" and not is_path(str(value)):  # imagenet, beside such a folder
        return None
    path = Path(value).expanduser()
    return path.absolute() if path.exists() or (section, key) == ("data", "root") else None


def digest(recipe: Recipe, *, files_of_losses: bool = False) -> str:
    """Return the sha256 of everything in a recipe that decides a run's bits.

    Paths do not count, so that data and weights may move between two starts; see
    :func:`difference`.

    Args:
        files_of_losses: their paths count as they are written, as in earlier versions.
    """
    values = resolved(recipe)
    for section, key in (*FREE, *PATHS):
        values.get(section, {}).pop(key, None)
    for member in values.get("teacher", {}).get("members", ()):
        for key in OF_MEMBERS:
            member.pop(key, None)
    values["data"].get("pool", {}).pop("root", None)
    for line in values["losses"]:
        for key, value in ADDED.get(line["name"], {}).items():
            if line.get(key) == value:
                del line[key]
        for key in () if files_of_losses else _file_arguments(line["name"]):
            if line.get(key) is not None:
                del line[key]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def digests(recipe: Recipe) -> tuple[str, ...]:
    """Return the digest of a recipe, and those that its run had before each of its extensions.

    Those that an earlier version gave come last.
    """
    extensions = recipe.train.extend or ()
    trains = [
        recipe.train.model_copy(update={"extend": extensions[:number] or None})
        for number in range(len(extensions), -1, -1)
    ]
    parts = [dataclasses.replace(recipe, train=train) for train in trains]
    return tuple(digest(part, files_of_losses=old) for old in (False, True) for part in parts)


class RecipeDifference(NamedTuple):
    """A key whose value in a recipe is not that of a run."""

    key: str
    run: Any
    recipe: Any


def difference(run: Recipe, recipe: Recipe) -> RecipeDifference | None:
    """Return the first difference of meaning between a run's recipe and another; None if equal.

    A path of the run that no longer exists may be replaced by another; that is a warning.
    """
    before, after = dict(leaves(resolved(run))), dict(leaves(resolved(recipe)))
    of_losses = {
        ("losses", str(number), key)
        for number, line in enumerate(run.losses)
        for key in _file_arguments(line.name)
    }
    for key in [*before, *(key for key in after if key not in before)]:
        old, new, place = before.get(key), after.get(key), tuple(key.split("."))
        if old == new or place in FREE:
            continue
        is_path = _is_path_key(place) or place in of_losses
        if is_path and None not in (old, new) and _same_place(key, str(old), str(new)):
            continue
        return RecipeDifference(key, old, new)
    return None


def _is_path_key(place: tuple[str, ...]) -> bool:
    of_member = place[:2] == MEMBERS and place[3:] in [(key,) for key in OF_MEMBERS]
    return place in (*PATHS, POOL_ROOT) or of_member


def _same_place(key: str, run: str, recipe: str) -> bool:
    """Return whether two paths name one place, or that of the run is gone (with a warning)."""
    old, new = Path(run).expanduser(), Path(recipe).expanduser()
    if old.resolve() == new.resolve():
        return True
    moved = old.is_absolute() and not old.exists() and new.exists()
    if moved:
        log.warning("%s %s of the run no longer exists; %s is used", key, run, recipe)
    return moved
