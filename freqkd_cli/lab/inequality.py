"""What differs between a row and the baseline besides the losses, and runs on different data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from freqkd_cli.errors import UsageError
from freqkd_cli.lab.grouping import Group
from freqkd_cli.lab.plan_keys import LENGTHS
from freqkd_cli.lab.recipe_values import UNSEEN, Values, differing
from freqkd_cli.lab.run_record import RunRecord
from freqkd_cli.recipe.data_section import TRAINING_IMAGES, held_out_data, labelled_number

EQUAL_TIME = 1.1
"""Times whose ratio is smaller than that are called equal."""
BATCH = ("train.batch_size", "train.accumulate")
NAME = "data.name"


def inequalities(group: Group, baseline: Group, teacher: Group | None) -> dict[str, str]:
    """Return what is unequal -> how, for a row and the baseline.

    Args:
        teacher: the row whose teacher that of ``group`` is compared with.
    """
    row, base = group.values, baseline.values
    texts = {
        "steps": _numbers(_steps(group), _steps(baseline)),
        "time": _time(group, baseline),
        "views": _keys(row, base, _views(row, base, group, baseline)),
        "data": _data(group, baseline),
        "teacher": _teacher(group, teacher),
        "student": _keys(row, base, differing(row, base, "student")),
        "training": _keys(row, base, _training(row, base)),
        "device": _device(group, baseline),
    }
    return {key: text for key, text in texts.items() if text}


def require_same_data(
    groups: Sequence[Group], records: Sequence[RunRecord], root: Path | None
) -> None:
    """Check that all runs were scored on the same validation images.

    Args:
        root: the folder that takes the place of each ``data.root``.

    Raises:
        UsageError: two runs were trained on different data, or scored on different images.
    """
    runs = [(run, _held_out(group.values, run, root)) for group in groups for run in _runs(group)]
    (first, wanted), *others = runs
    for run, data in others:
        keys = [key for key in {**wanted, **data} if wanted.get(key) != data.get(key)]
        keys = [NAME] if NAME in keys else keys
        texts = [f"{key} {_shown(wanted, key)} and {_shown(data, key)}" for key in keys]
        if texts:
            raise UsageError(
                f"{first.folder} and {run.folder} were trained on different data",
                got="; ".join(texts),
                need="runs with the same held-out images",
                tip="--data-root DIR, if all runs used copies of one folder"
                if keys == ["data.root"]
                else None,
            )
    scored = [r for r in records if r.summary.get("val_images") is not None and not r.scored]
    for run in scored[1:]:
        images = [_scored_images(record) for record in (scored[0], run)]
        if images[0] != images[1]:
            raise UsageError(
                f"{scored[0].folder} and {run.folder} were scored on different images",
                got=" and ".join(images),
                need="the same validation images",
                tip="the same --set train.eval_limit=N and data.hold_out for all runs",
            )


def _scored_images(run: RunRecord) -> str:
    part, data = "val", run.recipe["data"]
    if run.summary.get("held_out_images"):
        part = f"data.hold_out {data.get('hold_out')} of {labelled_number(data)} labelled images"
    return f"{run.summary['val_images']} images of {part}"


def _held_out(values: Values, run: RunRecord, root: Path | None) -> dict[str, Any]:
    """Return what decides the held-out images of a run."""
    data = {
        key.removeprefix("data."): value for key, value in values.items() if key.startswith("data.")
    }
    data["root"] = run.recipe["data"].get("root")
    return {f"data.{key}": value for key, value in held_out_data(data, root).items()}


def _runs(group: Group) -> Iterable[RunRecord]:
    return group.runs.values()


def _steps(group: Group) -> set[int]:
    return {run.steps for run in _runs(group) if run.finished and run.steps is not None}


def _time(group: Group, baseline: Group) -> str:
    own, other = (mean([r.seconds for r in _runs(g) if r.finished]) for g in (group, baseline))
    if not own or not other or 1 / EQUAL_TIME <= own / other <= EQUAL_TIME:
        return ""
    return f"{own / other:.2f} times as long"


def _views(row: Values, base: Values, group: Group, baseline: Group) -> list[str]:
    keys = differing(row, base, "data.augment")
    keys += [key for key in ("data.views", "data.size", *BATCH) if row.get(key) != base.get(key)]
    shared = group.runs.keys() & baseline.runs.keys()
    pairs = [
        [g.runs[seed].recipe["data"].get("view_seed") for g in (group, baseline)] for seed in shared
    ]
    return keys + (["data.view_seed"] if any(one != other for one, other in pairs) else [])


def _data(group: Group, baseline: Group) -> str:
    row, base = group.values, baseline.values
    keys = [f"data.{key}" for key in TRAINING_IMAGES]
    keys = [key for key in keys if row.get(key) != base.get(key)]
    pools = [any(key.startswith("data.pool.") for key in values) for values in (row, base)]
    if pools[0] != pools[1]:
        return f"images of data.pool in {'this row' if pools[0] else 'the baseline'} alone"
    if text := _keys(row, base, [*keys, *differing(row, base, "data.pool")]):
        return text
    for key, what in (("images", "training images"), ("pool_images", "images without labels")):
        counted = [
            {r.summary.get(key, 0) for r in _runs(g) if r.finished and "images" in r.summary}
            for g in (group, baseline)
        ]
        if text := _numbers(*counted):
            return f"{text} {what}"
    return ""


def _teacher(group: Group, other: Group | None) -> str:
    if other is None or "teacher.name" not in group.values:
        return ""
    keys = [key for key in differing(group.values, other.values, "teacher") if key not in UNSEEN]
    return _keys(group.values, other.values, keys)


def _training(row: Values, base: Values) -> list[str]:
    keys = differing(row, base, "train")
    return [key for key in keys if key not in (*LENGTHS, *BATCH, *UNSEEN)]


def _device(group: Group, baseline: Group) -> str:
    own, other = (
        {_kind(run.environment) for run in _runs(g) if run.environment} for g in (group, baseline)
    )
    if own == other or not own or not other:
        return ""
    return f"{' and '.join(sorted(own))} instead of {' and '.join(sorted(other))}"


def _kind(environment: Mapping[str, Any]) -> str:
    device = str(environment.get("device")).partition(":")[0]
    return f"{device}, {str(environment.get('compute')).partition(',')[0]}"


def _keys(row: Values, base: Values, keys: Sequence[str]) -> str:
    return "; ".join(f"{key} {_shown(row, key)} instead of {_shown(base, key)}" for key in keys)


def _shown(values: Values, key: str) -> str:
    value = values.get(key)
    return "none" if value is None else str(value)


def _numbers(own: set[int], other: set[int]) -> str:
    """Return how two sets of numbers differ; empty where they are equal or one is unknown."""
    if own == other or not own or not other:
        return ""
    texts = [" or ".join(f"{x:,d}" for x in sorted(numbers)) for numbers in (own, other)]
    return f"{texts[0]} instead of {texts[1]}"


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the numbers; None where there is none."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None
