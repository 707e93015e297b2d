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
from freqkd_cli.runtime.leaves import leaves
from freqkd_cli.weights.hub import is_path

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import Recipe

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
OF_MEMBERS = ("weights", "encoder_weights")
"""Those keys of each member of an ensemble."""
ADDED = {
    "cwd": {"student": "logits", "teacher": "logits"},
    "dist": {"student": "logits", "teacher": "logits"},
    "fam": {"form": "coarse"},
}
"""Loss -> keys that it got later, with the value that stands for their absence in digests."""


def kept_values(recipe: Recipe) -> dict[str, Any]:
    """Return the values of a recipe with every existing file or folder under an absolute path.

    Other values, such as ``embedded`` or the name of weights on a hub, stay as they are.
    """
    values = resolved(recipe)
    for name, section, key in _path_places(values):
        path = _absolute(name, section[key])
        if path is not None:
            section[key] = str(path)
    return values


def _path_places(values: dict[str, Any]) -> list[tuple[str, dict[str, Any], str]]:
    """Return key path, section and key of every value that may name a file or folder."""
    places = [(name, values[name], key) for name, key in PATHS if name in values]
    for number, member in enumerate(values.get("teacher", {}).get("members", ())):
        places += [(f"teacher.members.{number}", member, key) for key in OF_MEMBERS]
    places.append(("data.pool", values["data"].get("pool", {}), "root"))
    for number, line in enumerate(values["losses"]):
        places += [(f"losses.{number}", line, key) for key in _file_arguments(line["name"])]
    return [(f"{name}.{key}", section, key) for name, section, key in places if key in section]


@cache
def _file_arguments(loss: str) -> frozenset[str]:
    """Return the arguments of a loss that are files, as its class declares them."""
    classes = (x for x in vars(registry.find("losses", loss)).values() if isinstance(x, type))
    return frozenset(key for kind in classes for key in getattr(kind, "file_arguments", ()))


def _absolute(name: str, value: Any) -> Path | None:
    """Return the absolute path of a value that names something on this machine, else None."""
    if not isinstance(value, str) or value == "embedded":
        return None
    if name.endswith(".encoder_weights") and not is_path(value):  # imagenet, beside such a folder
        return None
    path = Path(value).expanduser()
    return path.absolute() if path.exists() or name in ("data.root", "data.pool.root") else None


def digest(recipe: Recipe, *, files_of_losses: bool = False) -> str:
    """Return the sha256 of everything in a recipe that decides a run's bits.

    Paths do not count, so that data and weights may move between two starts; see
    :func:`difference`.

    Args:
        files_of_losses: their paths count as they are written, as in earlier versions.
    """
    values = resolved(recipe)
    for section, key in FREE:
        values.get(section, {}).pop(key, None)
    for line in values["losses"]:
        for key, value in ADDED.get(line["name"], {}).items():
            if line.get(key) == value:
                del line[key]
    for name, section, key in _path_places(values):
        of_loss = name.startswith("losses.")
        if not of_loss or (section[key] is not None and not files_of_losses):
            del section[key]
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
    values = resolved(run)
    paths = {name for name, _, _ in _path_places(values)}
    before, after = dict(leaves(values)), dict(leaves(resolved(recipe)))
    for key in [*before, *(key for key in after if key not in before)]:
        old, new = before.get(key), after.get(key)
        if old == new or tuple(key.split(".")) in FREE:
            continue
        if key in paths and None not in (old, new) and _same_place(key, str(old), str(new)):
            continue
        return RecipeDifference(key, old, new)
    return None


def _same_place(key: str, run: str, recipe: str) -> bool:
    """Return whether two paths name one place, or that of the run is gone (with a warning)."""
    old, new = Path(run).expanduser(), Path(recipe).expanduser()
    if old.resolve() == new.resolve():
        return True
    moved = old.is_absolute() and not old.exists() and new.exists()
    if moved:
        log.warning("%s %s of the run no longer exists; %s is used", key, run, recipe)
    return moved


def shown(value: Any) -> str:
    """Return a value of a recipe for messages; None stands for a key without one."""
    return "left out" if value is None else str(value)
