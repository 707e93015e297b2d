"""The folder of a study of ``freqkd tune``, and what makes two commands the same study."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freqkd_cli import recipe as recipes
from freqkd_cli.errors import UsageError
from freqkd_cli.lab.search_space import Search
from freqkd_cli.runtime.files import SUFFIX
from freqkd_cli.runtime.json_file import object_or_none
from freqkd_cli.train.recipe_identity import difference, shown

RECORD, JOURNAL, TRIALS, LOCKS = "tune.json", "journal.log", "trials", "locks"
"""Files and folders of a study folder."""

VERSION = 1


@dataclass(frozen=True)
class Identity:
    """What decides the trials of a study: the recipe of a trial, as YAML, and the searches."""

    recipe: str
    searches: tuple[Search, ...]

    def to_json(self) -> dict[str, Any]:
        texts = sorted(f"{search.key}={search.values}" for search in self.searches)
        return {"version": VERSION, "recipe": self.recipe, "search": texts}

    def check(self, stored: Any, where: str) -> None:
        """Refuse a study of another recipe or other searches.

        Raises:
            UsageError: the first difference is named.
        """
        own = self.to_json()
        tip = "give the same recipe and options, or another --study"
        if not isinstance(stored, dict) or stored.get("version") != VERSION:
            raise UsageError(
                f"{where} was not made by this version of freqkd tune",
                need=f"version {VERSION}",
                tip="give another --study",
            )
        if stored.get("search") != own["search"]:
            raise UsageError(
                f"{where} was started with another search",
                got=", ".join(own["search"]),
                need=", ".join(stored.get("search") or ()),
                tip=tip,
            )
        differing = difference(recipes.loads(stored["recipe"]), recipes.loads(self.recipe))
        if differing is not None:
            raise UsageError(
                f"{where} was started with another recipe",
                got=f"{differing.key} {shown(differing.recipe)}",
                need=f"{differing.key} {shown(differing.run)}",
                tip=tip,
                key=differing.key,
            )


def check_folder(folder: Path, identity: Identity, *, journal: bool) -> None:
    """Check that a study may use a folder; nothing is changed.

    Raises:
        UsageError: it has another study, or files that freqkd tune did not write.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--study {folder} is a file", need="a folder", tip="give another --study")
    # In this order: another process may write its record in between.
    names = _foreign(folder) if folder.is_dir() else []
    stored = object_or_none(folder / RECORD)
    if stored is None:
        if names:
            raise UsageError(
                f"--study {folder} contains files that freqkd tune did not write",
                got=", ".join(names[:5]),
                need="an empty or new folder",
                tip="give another --study",
            )
        return
    identity.check(stored, f"the study in {folder}")
    if stored.get("journal") != journal:
        raise UsageError(
            f"the study in {folder} keeps its trials in another storage",
            need="no --storage" if stored.get("journal") else "--storage with its database",
            tip="give the same options, or another --study",
        )


def _foreign(folder: Path) -> list[str]:
    """Return the names of what another program wrote; a first process may be writing its record."""
    names = (path.name for path in folder.iterdir() if path.suffix != SUFFIX)
    return sorted(name for name in names if name not in (LOCKS, JOURNAL))
