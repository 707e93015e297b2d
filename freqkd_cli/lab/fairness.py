"""The fairness rule of a plan: the number of steps of every row."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqkd_cli.bench.measure import bench
from freqkd_cli.bench.measured_loop import BenchOptions
from freqkd_cli.build import assemble
from freqkd_cli.build.schedules import run_length
from freqkd_cli.build.training_images import training_images
from freqkd_cli.build.training_parts import training_parts
from freqkd_cli.recipe.resolved import resolved
from freqkd_cli.runtime.progress import Progress, Silent, bar

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import Recipe

MEASURED_STEPS = 10

COSTS = (
    *("batch_size", "accumulate", "precision", "optimizer", "quantize", "compile"),
    *("channels_last", "freeze_norm", "clip", "ema"),
)
"""Keys of ``train`` that decide the cost of a step on labels alone."""


def own_steps(checked: assemble.CheckedRecipe) -> int:
    """Return the number of steps that a recipe itself asks for.

    Raises:
        DataMissing: its training images are not there.
    """
    recipe = checked.recipe
    parts = training_parts(recipe)
    pool = parts.pool_share(recipe, training_images(checked, parts.whole))
    return run_length(len(parts.trained), recipe.train, pool.share if pool else 0.0).steps


def steps_of_equal_time(step_ms: Mapping[str, float], baseline: str, steps: int) -> dict[str, int]:
    """Return row -> the steps that take the time of ``steps`` steps of the baseline."""
    return {
        name: steps if name == baseline else max(1, round(steps * step_ms[baseline] / ms))
        for name, ms in step_ms.items()
    }


def measured_step_ms(
    rows: Mapping[str, tuple[Recipe, Path | None]],
    device: str | None,
    progress: Progress,
    steps: int = MEASURED_STEPS,
    before_each: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Return row -> milliseconds of a training step, as ``freqkd bench`` measures them here.

    Args:
        rows: row -> its recipe, and the cache that it reads.
        before_each: called before each row; what it raises ends the measurement.
    """
    results = {}
    with bar(progress, "measured row", len(rows)):
        for done, (name, (recipe, cache)) in enumerate(rows.items(), start=1):
            before_each()
            results[name] = bench(recipe, BenchOptions(cache, steps, device=device), Silent())
            progress.advance(done, f"{name}  {results[name]['step_ms']['median']:.1f} ms a step")
    groups = {name: _setting(recipe) for name, (recipe, _) in rows.items()}
    return relative_to_cross_entropy(results, groups)


def _setting(recipe: Recipe) -> str:
    """Return what decides the cost of a step on labels alone: views, student, batch, arithmetic."""
    values = resolved(recipe)
    train = [values["train"].get(key) for key in COSTS]
    return repr((values["data"], values["student"], train))


def relative_to_cross_entropy(
    results: Mapping[str, Mapping[str, Any]], groups: Mapping[str, str]
) -> dict[str, float]:
    """Return row -> milliseconds of a step, robust to other load on the machine.

    ``bench`` takes each step in turn with one of cross-entropy alone. That ratio times the median
    of those steps, over all rows with the same student and views, is the time of a row.

    Args:
        results: row -> what ``bench`` returned.
        groups: row -> the same text for rows with the same student and views.
    """
    alone: dict[str, list[float]] = {}
    for name, result in results.items():
        if "ce_step_ms" in result["ratios"]:
            alone.setdefault(groups[name], []).append(result["ratios"]["ce_step_ms"]["median"])
    times = {}
    for name, result in results.items():
        ratio = result["ratios"].get("over_ce", {"median": 1.0})["median"]
        known = alone.get(groups[name])
        times[name] = ratio * statistics.median(known) if known else result["step_ms"]["median"]
    return {name: round(ms, 3) for name, ms in times.items()}
