"""The weights of a run's teacher and their license, as its recipe names them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from freqkd_cli import registry
from freqkd_cli.errors import WeightsMissing
from freqkd_cli.weights.config import License, read_config
from freqkd_cli.weights.folder_kinds import described_folder

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import Recipe


def networks(recipe: Recipe) -> list[tuple[str, str | None]]:
    """Return name and weights of the teacher, or of each member of an ensemble."""
    teacher = recipe.teacher
    if teacher is None:
        return []
    members = [dict(member) for member in teacher.arguments.get("members", ())]
    if members:
        return [(member["name"], member.get("weights")) for member in members]
    return [(teacher.name, teacher.arguments.get("weights") or teacher.weights)]


def teacher_license(recipe: Recipe) -> License | None:
    """Return the license of the teacher's weights, or None where it is not known.

    Of the members of an ensemble, one that excludes commercial use decides.
    """
    licenses = [license_of_weights(name, weights) for name, weights in networks(recipe) if weights]
    known = [license for license in licenses if license]
    return next((x for x in known if x.noncommercial), known[0] if known else None)


def license_of_weights(name: str, weights: str) -> License | None:
    """Return the license of a model's weights, or None where it is not known."""
    license_of = getattr(registry.find("models", name), "license_of", None)
    return recorded_license(Path(weights)) or (license_of(weights) if license_of else None)


def recorded_license(folder: Path) -> License | None:
    """Return the license in a folder's ``config.json``; None where there is no such folder."""
    try:
        folder = described_folder(folder.expanduser())
        return read_config(folder / "config.json").section.license
    except WeightsMissing:  # a hub id, or another program's folder
        return None
