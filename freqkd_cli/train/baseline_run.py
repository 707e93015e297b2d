"""A run on labels alone beside a distilled one, and the share of the gap that distilling closed."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqkd_cli import recipe as recipes
from freqkd_cli.errors import FreqKDError
from freqkd_cli.runtime.json_file import object_or_none
from freqkd_cli.teacher.targets import NoTeacher
from freqkd_cli.train import run_folder
from freqkd_cli.train.recipe_identity import FREE, kept_values

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import Recipe

log = logging.getLogger(__name__)


def find(out: Path, labels_alone: Recipe, images: int) -> dict[str, Any] | None:
    """Return the summary of a run beside ``out`` that is ``labels_alone`` exactly, or None.

    Beside ``runs/NAME/seed-0`` of a study are also the runs ``runs/OTHER/seed-0``.

    Data, views, student, losses, length and seed are the same; loss lines of weight 0 do not count.

    Args:
        labels_alone: the recipe of ``out`` without its teacher.
        images: number of images that both are scored on.
    """
    wanted = _values(labels_alone)
    parent, name = out.absolute().parent, out.absolute().name
    with contextlib.suppress(OSError):
        folders = sorted(parent.iterdir())
        if re.fullmatch(r"seed-\d+", name):
            folders += sorted(parent.parent.glob(f"*/{name}"))
        for folder in folders:
            summary = object_or_none(folder / "summary.json") or {}
            scored = isinstance(summary.get("miou"), float) and summary.get("val_images") == images
            if not scored or summary.get("source") != NoTeacher.name:
                continue
            with contextlib.suppress(FreqKDError):
                if _values(recipes.load(folder / "recipe.yaml")) == wanted:
                    beside = folder.parent == parent
                    return {**summary, "run": str(out.parent / folder.name if beside else folder)}
    return None


def _values(recipe: Recipe) -> dict[str, Any]:
    """Return what decides the result of a run on labels alone."""
    losses = tuple(line for line in recipe.losses if line.weight > 0)
    recipe = dataclasses.replace(recipe, losses=losses, teacher=None)
    values = kept_values(recipe)
    for section, key in FREE:
        values.get(section, {}).pop(key, None)
    return values


def finish(out: Path, summary: dict[str, Any], alone: Mapping[str, Any] | None) -> dict[str, Any]:
    """Add labels alone and the share of the gap that was closed to a finished run's summary.

    ``gap_closed`` is (student - labels alone) / (teacher - labels alone). It is left out where the
    teacher was not scored on the images of the student, or is not better than labels alone.
    """
    if alone is not None and alone["miou"] is not None:
        summary |= {"labels_alone_miou": alone["miou"], "labels_alone_run": alone["run"]}
        gap = _gap(summary, alone)
        if gap is not None and gap > 0 and summary["miou"] is not None:
            summary["gap_closed"] = (summary["miou"] - alone["miou"]) / gap
    run_folder.finish(out, summary)
    return summary


def warn_of_weak_teacher(summary: Mapping[str, Any], alone: Mapping[str, Any]) -> None:
    """Warn of a teacher that is not better than labels alone on the images of the student."""
    gap = _gap(summary, alone)
    if gap is not None and gap <= 0:
        log.warning(
            "the teacher has %.2f mIoU, and labels alone reach %.2f (%s). Class scores of this "
            "teacher may lower the student's score; train a better teacher",
            100 * summary["teacher_miou"],
            100 * alone["miou"],
            alone["run"],
        )


def _gap(summary: Mapping[str, Any], alone: Mapping[str, Any]) -> float | None:
    """Return teacher minus labels alone; None where they were scored on other images."""
    teacher, images = summary.get("teacher_miou"), summary.get("teacher_images")
    if teacher is None or alone["miou"] is None or images != alone["val_images"]:
        return None
    return teacher - alone["miou"]
