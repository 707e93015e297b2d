"""Whether a plan may run in a study folder: one kind of data, and the runs that are there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from freqkd_cli import __version__
from freqkd_cli import recipe as recipes
from freqkd_cli.errors import FreqKDError, UsageError, some
from freqkd_cli.lab import study as studies
from freqkd_cli.lab.plan_rows import CheckedRow, load_row
from freqkd_cli.lab.study import PLAN, RUNS, Study
from freqkd_cli.recipe.data_section import held_out_data, labelled_number
from freqkd_cli.recipe.resolved import resolved
from freqkd_cli.runtime.files import SUFFIX
from freqkd_cli.runtime.lock import LOCK
from freqkd_cli.train.recipe_identity import difference, shown

SHOWN = 8
LIMIT, LABELLED = "train.eval_limit", "labelled images for data.hold_out"


def same_data(study: Study, rows: Sequence[CheckedRow]) -> None:
    """Check that all rows are scored on the same images.

    Raises:
        RecipeError: two rows have different data, held-out images or ``train.eval_limit``; what
            differs is named.
    """
    first = _scored_on(rows[0])
    problems = []
    for row in rows:
        data = _scored_on(row)
        keys = [key for key in {**first, **data} if first.get(key) != data.get(key)]
        if keys:
            texts = [f"{key} {first.get(key)} and {data.get(key)}" for key in keys]
            same = {*keys} <= {LIMIT, LABELLED}
            what = "are scored on different images" if same else "have different data"
            rows_named = f"{rows[0].planned.row_name} and {row.planned.row_name}"
            problems.append((row.key, f"{rows_named} {what}: {'; '.join(texts)}"))
    if problems:
        raise study.plan.error(problems)


def _scored_on(row: CheckedRow) -> dict[str, Any]:
    data = resolved(row.recipe)["data"]
    images = held_out_data(data, None) | {"hold_out": data.get("hold_out")}
    scored: dict[str, Any] = {LIMIT: row.recipe.train.eval_limit or "0 (all)"}
    if images["hold_out"] is not None:
        scored[LABELLED] = labelled_number(data)
    return {f"data.{key}": value for key, value in images.items()} | scored


def check_folder(study: Study) -> Study | None:
    """Return the study that is in the folder already, if any; nothing is changed.

    Raises:
        UsageError: the folder is not a study, or is one of another version or plan. The
            differences are named.
    """
    folder = study.folder
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file", need="a folder", tip="give another --out")
    if not folder.is_dir() or not any(map(_is_written, folder.iterdir())):
        return None
    if not studies.is_study(folder):
        raise UsageError(
            f"--out {folder} is not empty and not a study",
            got=", ".join(sorted(path.name for path in folder.iterdir())[:5]),
            need=f"a new folder, or one with {PLAN}",
            tip="give another --out",
        )
    before = studies.read(folder)
    if before.plan.keys.freqkd not in (None, __version__):
        raise UsageError(
            f"the study {folder} was made by another version of freqkd",
            got=f"freqkd {before.plan.keys.freqkd}",
            need=f"freqkd {__version__}",
            tip="give another --out; freqkd compare reads the runs of both studies",
        )
    return before


def _is_written(path: Path) -> bool:
    """Return False for the lock of a study, and for a plan that a worker is writing."""
    return path.name != LOCK and path.suffix != SUFFIX


def check_runs(study: Study) -> None:
    """Check that every run in the folder is one of the plan, with the same recipe.

    Raises:
        UsageError: the differences are named.
    """
    differences = list(_differences(study))
    if not differences:
        return
    raise UsageError(
        f"the study {study.folder} was made with another plan",
        got=some(differences, SHOWN, "; "),
        need="the plan of its runs, or more recipes and seeds",
        tip="give another --out, or remove these run folders",
    )


def _differences(study: Study) -> Iterator[str]:
    runs = {run.folder: run for run in study.runs()}
    for recipe_file in sorted((study.folder / RUNS).glob("*/*/recipe.yaml")):
        folder = recipe_file.parent
        name = "/".join(folder.parts[-2:])
        run = runs.get(folder)
        if run is None:
            yield f"{name} is not in the plan"
            continue
        if study.plan.keys.fair == "seconds" and not run.row.step_ms:
            continue  # checked once its steps are measured
        try:
            there = recipes.load(recipe_file)
        except FreqKDError as error:
            yield f"{name}: {error.line}"
            continue
        differing = difference(there, load_row(study.plan, run.row, run.seed))
        if differing is not None:
            values = [shown(value) for value in (differing.run, differing.recipe)]
            yield f"{name} has {differing.key} {values[0]}, the plan {values[1]}"


def with_measured_steps(study: Study, before: Study | None, steps: int) -> Study:
    """Return a study of equal time with the steps that were measured for it before.

    Args:
        steps: those of the baseline now.

    Raises:
        UsageError: they were measured for another baseline, or for another length of it.
    """
    if before is None or study.plan.keys.fair != "seconds" or before.plan.keys.fair != "seconds":
        return study
    known = {row.row_name: row for row in before.rows if row.step_ms}
    measure = known.get(before.baseline)
    if measure is None:
        return study
    if (measure.row_name, measure.steps) != (study.baseline, steps):
        raise UsageError(
            f"the study {study.folder} was measured for another length or baseline",
            got=f"the baseline {study.baseline} of {steps} steps",
            need=f"the baseline {measure.row_name} of {measure.steps} steps, as it was measured",
            tip="give another --out",
        )
    rows = []
    for row in study.rows:
        then = known.get(row.row_name)
        changes = {"steps": then.steps, "step_ms": then.step_ms} if then else {}
        rows.append(row.model_copy(update=changes))
    return with_rows(study, rows)


def with_rows(study: Study, rows: Sequence[Any]) -> Study:
    """Return a study with other entries for its rows."""
    keys = study.plan.keys.model_copy(update={"recipes": tuple(rows)})
    return replace(study, plan=replace(study.plan, keys=keys))
