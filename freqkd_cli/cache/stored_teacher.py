"""The teacher of a cache, as its index describes it: what training needs where no teacher runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freqkd_cli import registry
from freqkd_cli.cache.index_file import Index
from freqkd_cli.features.class_map import ClassMap
from freqkd_cli.features.taps import Tap

_ORIGIN = frozenset({"weights", "encoder_weights", "members"})
"""Arguments of a recipe's teacher that name weights."""


@dataclass(frozen=True)
class StoredTeacher:
    """The teacher of a cache, whose weights are not on this machine.

    Attributes:
        folder: of the cache.
        taps: its taps by name.
        classes: K, before any class map of a recipe.
        id2label: number -> name of the classes; None where these are unknown.
        class_map: that of an ensemble; None for other teachers.
        identity: its part of the fingerprint.
    """

    folder: Path
    taps: Mapping[str, Tap]
    classes: int
    id2label: Mapping[int, str] | None
    class_map: ClassMap | None
    identity: Mapping[str, Any]

    @classmethod
    def of(cls, folder: Path, index: Index) -> StoredTeacher | None:
        """Return the teacher of a cache; None where neither its index nor its model lists taps."""
        fields = index.full_fingerprint.fields
        identity, facts = fields["teacher"], index.teacher
        if facts is None:  # caches of older versions: the model's arguments give the same facts
            taps = _taps_of(identity)
            if taps is None:
                return None
            classes, names = int(identity["arguments"]["classes"]), None
        else:
            taps, classes, names = {tap.name: tap for tap in facts.taps}, facts.classes, None
            names = dict(enumerate(facts.class_names)) if facts.class_names else None
        map_ = _class_map(fields, classes) if identity.get("name") == "ensemble" else None
        return cls(folder, taps, classes, names, map_, identity)

    def identity_for(self, name: str, dtype: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return its part of the fingerprint.

        Its arguments are those that the recipe gives for its teacher, else those of the cache. The
        weights are those of the cache: a recipe cannot be compared with them.
        """
        stored = self.identity.get("arguments") or {}
        named = (stored.keys() & arguments.keys()) - _ORIGIN
        given = {key: arguments[key] for key in named if arguments[key] is not None}
        if isinstance(outputs := given.get("outputs"), Mapping):
            # A recipe may leave out taps, and may add strides and channels to the names.
            names = {tap: x["name"] if isinstance(x, Mapping) else x for tap, x in outputs.items()}
            given["outputs"] = {**stored["outputs"], **names}
        return {**self.identity, "name": name, "dtype": dtype, "arguments": {**stored, **given}}


def _taps_of(identity: Mapping[str, Any]) -> dict[str, Tap] | None:
    name, arguments = identity.get("name"), identity.get("arguments") or {}
    if name not in registry.names("models") or "classes" not in arguments:
        return None
    accepted = registry.takes("models", name)
    taps = registry.find("models", name).taps(
        **{key: value for key, value in arguments.items() if key in accepted}
    )
    return {tap.name: tap for tap in taps}


def _class_map(fields: Mapping[str, Any], classes: int) -> ClassMap | None:
    groups = {int(key): tuple(group) for key, group in (fields.get("class_map") or {}).items()}
    covered = tuple(sorted(groups))
    return ClassMap(tuple(groups[n] for n in covered), covered, classes) if groups else None
