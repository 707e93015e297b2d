"""The caches of a study: which rows share one, how large they are, and how they are made."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqkd_cli.build import assemble
from freqkd_cli.build.training_images import compares, may_have_pool
from freqkd_cli.cache.index_file import INDEX
from freqkd_cli.errors import FreqKDError, Interrupted
from freqkd_cli.features.taps import stored_as
from freqkd_cli.recipe.resolved import resolved
from freqkd_cli.runtime.byte_sizes import size
from freqkd_cli.runtime.progress import Progress
from freqkd_cli.teacher.dump_recipe import DumpOptions, dry_run, dump_recipe
from freqkd_cli.teacher.recipe_cache import Form

if TYPE_CHECKING:
    from freqkd_cli.lab.plan_rows import CheckedRow
    from freqkd_cli.recipe.sections import Recipe

log = logging.getLogger(__name__)

SPARE = 2**30
"""Bytes that a cache leaves free on the disk, for the runs."""


@dataclass(frozen=True)
class SharedCache:
    """A cache that one row or several rows read.

    Attributes:
        recipes: recipes that together read every stored tap; the first one makes the cache.
        rows: names of all rows that read it.
    """

    folder: Path
    form: Form
    recipes: tuple[Recipe, ...]
    rows: tuple[str, ...]

    @property
    def finished(self) -> bool:
        return (self.folder / INDEX).is_file()

    def options(self, device: str | None) -> DumpOptions:
        return DumpOptions(self.form, device, "resume", also=self.recipes[1:], hint=False)

    def estimate(self, device: str | None) -> dict[str, Any]:
        """Return items, bytes and seconds of the cache; nothing is written."""
        return dry_run(self.recipes[0], self.folder, self.options(device))


def shared_caches(folder: Path, rows: Sequence[CheckedRow], content: str) -> list[SharedCache]:
    """Return the caches of the rows that read a teacher and have a fixed number of views.

    Args:
        folder: of the study's caches.
        content: ``taps`` or ``targets``, or ``live`` for none.
    """
    groups: dict[str, list[tuple[CheckedRow, frozenset[str]]]] = {}
    for row in rows:
        taps = _taps(row.checked)
        if content != "live" and taps and row.recipe.data.views:
            groups.setdefault(_identity(row.recipe, content), []).append((row, taps))
    return [_cache(folder, key, group, content) for key, group in groups.items()]


def _taps(checked: assemble.CheckedRecipe) -> frozenset[str]:
    """Return the teacher taps that the losses of a recipe read."""
    lines = assemble.build_lines(checked)
    return frozenset(
        stored_as(name, checked.teacher_taps) for line in lines for name in line.teacher_taps
    )


def _identity(recipe: Recipe, content: str) -> str:
    """Return a text that is equal for recipes that can share a cache."""
    values = resolved(recipe)
    values["teacher"].pop("min_iou")
    for key in ("workers", "keep"):
        values["data"].pop(key)
    parts = [values["teacher"], values["data"]]
    if content == "targets":
        free = {"weight", "warmup", "decay"}
        # A line of weight 0 is not built, so its targets are not in the cache.
        built = [line for line in values["losses"] if line["weight"]]
        lines = [{k: v for k, v in line.items() if k not in free} for line in built]
        parts += [values["student"], *lines]
    return json.dumps(parts, sort_keys=True)


def _cache(
    folder: Path, key: str, group: list[tuple[CheckedRow, frozenset[str]]], content: str
) -> SharedCache:
    covered: frozenset[str] = frozenset()
    needed: list[Recipe] = []
    # A cache with the images of a pool serves rows without it, but not the reverse.
    for row, taps in sorted(group, key=lambda entry: not _uses_pool(entry[0])):
        if not taps <= covered:
            needed.append(row.recipe)
            covered |= taps
    digest = hashlib.sha256(f"{key} {sorted(covered)}".encode()).hexdigest()[:8]
    teacher = needed[0].teacher
    assert teacher is not None
    form = Form("targets" if content == "targets" else "taps")
    names = tuple(row.planned.row_name for row, _ in group)
    return SharedCache(folder / f"{teacher.name}-{digest}", form, tuple(needed), names)


def _uses_pool(row: CheckedRow) -> bool:
    """Return whether a row learns from images without labels, where there are any."""
    taps = row.checked.teacher_taps
    return may_have_pool(row.recipe) and compares(row.recipe, taps)


def make(cache: SharedCache, device: str | None, progress: Progress) -> bool:
    """Make a cache where it is missing and fits on the disk; return whether it can be read.

    Raises:
        Interrupted: a signal asked to stop; the same sweep continues.
    """
    if cache.finished:
        return True
    try:
        estimate = cache.estimate(device)
        needed, free = estimate["bytes"] - _size(cache.folder), room(cache.folder)
        rows = f"{len(cache.rows)} row{'s' * (len(cache.rows) != 1)}"
        stored = f"{estimate['items']} views, {size(estimate['bytes'])}"
        progress.note(f"{cache.folder}: {stored} for {rows}; {size(free)} are free")
        if needed + SPARE > free:
            log.warning(
                "the cache %s does not fit on the disk: %s are needed, %s are free and %s stay "
                "free for the runs. The teacher runs live instead",
                cache.folder,
                *map(size, (needed, free, SPARE)),
            )
            return False
        dump_recipe(cache.recipes[0], cache.folder, progress, cache.options(device))
        return True
    except Interrupted as error:
        raise Interrupted(error.what, tip="the same sweep again continues") from error
    except FreqKDError as error:
        log.warning(
            "the cache %s cannot be made, so the teacher runs live: %s", cache.folder, error.line
        )
        return False


def room(folder: Path) -> int:
    """Return the free bytes of the disk that a folder is on, or will be on."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(nearest).free


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*")) if folder.is_dir() else 0
