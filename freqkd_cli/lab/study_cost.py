"""The cost of a study: its runs, the bytes of caches and runs, and hours on this machine."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from freqkd_cli.lab.plan_rows import load_row
from freqkd_cli.lab.shared_caches import SPARE, room
from freqkd_cli.recipe.resolved import resolved
from freqkd_cli.runtime.progress import Progress, Silent, bar
from freqkd_cli.train.distillation import distill

if TYPE_CHECKING:
    from freqkd_cli.lab.prepare_study import OpenStudy
    from freqkd_cli.recipe.sections import Recipe


def cost(opened: OpenStudy, device: str | None, progress: Progress) -> dict[str, Any]:
    """Return the cost of what is missing in a study; nothing is written.

    Rows that differ in numbers alone are measured once. With ``fair: seconds`` every run is
    expected to take the time of the baseline.
    """
    study, runs = opened.study, opened.study.runs()
    missing = [run for run in runs if run.summary() is None]
    caches = _caches(opened, {run.row.row_name for run in missing}, device)
    with bar(progress, "row", len(study.rows)):
        rows = _rows(opened, caches, device, progress)
    if study.plan.keys.fair == "seconds":
        seconds = next(row["seconds"] for row in rows if row["name"] == study.baseline)
        for row in rows:
            row |= {"seconds": seconds, "steps": row["steps"] if opened.measured else None}
    by_name = {row["name"]: row for row in rows}
    of_caches = sum(cache["seconds"] for cache in caches if cache["fits"])
    of_runs = sum(by_name[run.row.row_name]["seconds"] for run in missing)
    return {
        "study": str(study.folder),
        "runs": len(runs),
        "finished": len(runs) - len(missing),
        "baseline": study.baseline,
        "rows": rows,
        "caches": caches,
        "bytes": {
            "caches": sum(cache["bytes"] for cache in caches if cache["fits"]),
            "runs": sum(by_name[run.row.row_name]["bytes"] for run in missing),
            "free": room(study.folder),
        },
        "hours": round((of_caches + of_runs) / 3600, 4),
    }


def _caches(opened: OpenStudy, wanted: set[str], device: str | None) -> list[dict[str, Any]]:
    """Return the missing caches, and whether each fits on the disk beside those before it."""
    free, listed = room(opened.study.folder) - SPARE, []
    for cache in opened.shared:
        if cache.finished or not wanted & set(cache.rows):
            continue
        estimate = cache.estimate(device)
        fits = estimate["bytes"] <= free
        free -= estimate["bytes"] if fits else 0
        listed.append(
            {
                "cache": str(cache.folder),
                "views": estimate["items"],
                "bytes": estimate["bytes"],
                "seconds": estimate["seconds"],
                "fits": fits,
                "rows": list(cache.rows),
            }
        )
    return listed


def _rows(
    opened: OpenStudy, caches: list[dict[str, Any]], device: str | None, progress: Progress
) -> list[dict[str, Any]]:
    """Return steps, seconds and bytes of one run of every row."""
    study, seed = opened.study, opened.study.plan.keys.seeds[0]
    ready = {name: cache.folder for cache in opened.shared if cache.finished for name in cache.rows}
    coming = {name for cache in caches if cache["fits"] for name in cache["rows"]}
    measured: dict[str, Mapping[str, Any]] = {}
    rows = []
    for done, row in enumerate(study.rows, start=1):
        recipe = load_row(study.plan, row, seed)
        key = f"{_shape(recipe)} {ready.get(row.row_name)}"
        if key not in measured:
            out = study.folder / "dry-run"
            options = {"cache": ready.get(row.row_name), "device": device, "dry_run": True}
            measured[key] = distill(_unscored(recipe), out, Silent(), **options)
        result = measured[key]
        seconds = result["seconds"] / result["steps"] * opened.steps[row.row_name]
        if row.row_name in coming:  # the teacher was measured live, and will not run
            operations = result["step_gflops"] or 1.0
            per_step = recipe.train.batch_size * recipe.train.accumulate
            seconds *= 1 - min(1.0, result["teacher_gflops"] * per_step / operations)
        rows.append(
            {
                "name": row.row_name,
                "steps": opened.steps[row.row_name],
                "seconds": round(seconds, 1),
                "bytes": sum(result["bytes"].values()),
                "teacher": _teacher(recipe, cached=row.row_name in coming or row.row_name in ready),
            }
        )
        progress.advance(done, row.row_name)
    return rows


def _teacher(recipe: Recipe, *, cached: bool) -> str:
    if recipe.teacher is None:
        return "none"
    return "cached" if cached else "live"


def _unscored(recipe: Recipe) -> Recipe:
    """Return the recipe without the check of its teacher, which every run makes."""
    if recipe.teacher is None:
        return recipe
    teacher = recipe.teacher.model_copy(update={"min_iou": 0.0})
    return dataclasses.replace(recipe, teacher=teacher)


def _shape(recipe: Recipe) -> str:
    """Return a text that is equal for recipes whose steps cost the same."""
    values = resolved(recipe)
    for key in ("steps", "epochs", "seed"):
        values["train"].pop(key, None)
    return json.dumps(_without_fractions(values), sort_keys=True)


def _without_fractions(value: Any) -> Any:
    """Return a tree without its floats; a weight of 0 stays, since such a loss is not built."""
    if isinstance(value, Mapping):
        return {key: _without_fractions(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_without_fractions(child) for child in value]
    return "a number" if isinstance(value, float) and value else value
