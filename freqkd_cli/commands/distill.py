"""``freqkd distill``: train a student from a recipe."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freqkd_cli.commands._early import check_recipe
from freqkd_cli.commands._exporting import export_command
from freqkd_cli.commands._options import (
    DataRoot,
    Device,
    DryRun,
    Json,
    Nproc,
    Overwrite,
    Quiet,
    RecipeArgument,
    Resume,
    Seed,
    Sets,
    Verbose,
)
from freqkd_cli.commands._output import check_parents, columns, facts, print_result
from freqkd_cli.commands._scoring import number_rows
from freqkd_cli.runtime.launch import rank
from freqkd_cli.runtime.logs import warn

if TYPE_CHECKING:
    from freqkd_cli.runtime.progress import Progress

MANY_PROCESSES = True
log = logging.getLogger(__name__)


Cache = Annotated[
    Path | None,
    typer.Option("--cache", metavar="DIR", help="Read the teacher's outputs from a cache."),
]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify",
        help="With --cache, hash every image and saved output again, whatever its time stamps.",
    ),
]
Baseline = Annotated[
    bool,
    typer.Option(
        "--baseline",
        help="Also train on labels alone, into DIR-baseline, and compare the two.",
    ),
]
Report = Annotated[
    bool,
    typer.Option(
        "--report",
        help="Write the page of the run into it at the end, as freqkd report does.",
    ),
]
Extend = Annotated[
    int | None,
    typer.Option(
        "--extend",
        metavar="N",
        min=1,
        help="Train the finished run in --out for N more steps, at the learning rates of the "
        "longer run.",
    ),
]


def run(
    recipe: RecipeArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the run.")],
    cache: Cache = None,
    verify: Verify = False,
    baseline: Baseline = False,
    sets: Sets = None,
    data_root: DataRoot = None,
    seed: Seed = None,
    device: Device = None,
    nproc: Nproc = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    extend: Extend = None,
    report: Report = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = 0,
) -> None:
    """Train the student of a recipe, with or without a teacher.

    The teacher runs live, or --cache reads what freqkd teacher-dump stored of it.

        freqkd distill fastscnn_basic --cache caches/a --out runs/basic
        freqkd distill fastscnn_basic --out runs/basic --baseline
        freqkd distill fastscnn_basic --out runs/basic --extend 500
    """
    check_recipe(recipe)
    from freqkd_cli import recipe as recipes
    from freqkd_cli.errors import UsageError
    from freqkd_cli.report.progress_bars import progress
    from freqkd_cli.report.run_previews import RunPreviews
    from freqkd_cli.train import baseline_run, run_folder
    from freqkd_cli.train.distillation import distill
    from freqkd_cli.train.labels_alone import labels_alone

    if resume and overwrite:
        raise UsageError(
            "--resume continues the run in --out, --overwrite replaces it", tip="give one of them"
        )
    if extend and (overwrite or baseline):
        raise UsageError(
            "--extend continues the finished run in --out",
            got="--overwrite" if overwrite else "--baseline",
            tip="leave that out" if overwrite else "extend either run by a command of its own",
        )
    if verify and cache is None:
        raise UsageError(
            "--verify checks the files of a cache", tip="give --cache, or leave it out"
        )
    check_parents("--out", out)
    loaded = recipes.load(
        recipe, sets or (), {"data.root": data_root and str(data_root), "train.seed": seed}
    )
    warn(loaded.warnings)
    options = {
        "device": device,
        "resume": resume,
        "overwrite": overwrite,
        "extend": extend,
        "dry_run": dry_run,
        "drawing": RunPreviews(),
    }
    listener, beside = progress(verbose - quiet), out.with_name(f"{out.name}-baseline")
    baseline_recipe = labels_alone(loaded, cache) if baseline else None
    if baseline_recipe is not None:  # refused now, and not after the first run
        run_folder.check(beside, baseline_recipe, resume=resume, overwrite=overwrite)
    result = distill(
        loaded, out, listener, cache=cache, baseline=baseline, verify=verify, **options
    )
    if baseline_recipe is not None:
        log.info("Baseline: labels alone, into %s", beside)
        alone = distill(baseline_recipe, beside, listener, **options)
        if not dry_run and rank() == 0:
            baseline_run.warn_of_weak_teacher(result, alone)
            result = baseline_run.finish(out, result, alone)
        result = {**result, "baseline": alone}
    if report and not dry_run and rank() == 0:
        folders = [beside, out] if baseline else [out]
        _write_page(folders, listener, data_root, device)
    print_result(result, as_json, _facts if dry_run or not baseline else verdict)
    if not dry_run:
        int8 = f", or {export_command(out)}" if loaded.train.quantize else ""
        log.info("Next: freqkd eval %s%s", shlex.quote(str(out)), int8)


def _write_page(
    folders: list[Path], progress: Progress, data_root: Path | None, device: str | None
) -> None:
    """Write ``report.html`` into the last folder; a failure is a warning, as the run is done."""
    from freqkd_cli.report.page import page_of, render, write_page
    from freqkd_cli.train.run_folder import REPORT

    path = folders[-1] / REPORT
    try:
        page = page_of(folders, progress, data_root=data_root, device=device)
        write_page(render(page, "page.html"), path)
        log.info("written: %s", path)
    except Exception as error:
        log.warning("%s is not written: %s", path, error)


def _facts(result: Mapping[str, Any]) -> str:
    """Return the table of a run, with the numbers of train.metrics at its end."""
    metrics = result.get("metrics", {})
    text = facts({key: result[key] for key in result if not key.startswith("metrics")})
    return "\n".join((text, columns(number_rows(metrics)))) if metrics else text


def verdict(result: Mapping[str, Any]) -> str:
    """Return the table of ``--baseline``: labels alone, distilled, what was gained, the teacher."""
    alone, distilled = result["baseline"], result
    rows: list[tuple[Any, ...]] = [("", "mIoU", "run")]
    for name, summary in (("labels alone", alone), ("distilled", distilled)):
        miou = "not scored" if summary["miou"] is None else f"{100 * summary['miou']:.2f}"
        rows.append((name, miou, summary["run"]))
    if None in (alone["miou"], distilled["miou"]):
        return columns(rows)
    gain = 100 * (distilled["miou"] - alone["miou"])
    rows.append(("difference", f"{gain:+.2f}"))
    if distilled.get("teacher_miou") is not None:
        where = distilled["teacher_scored_on"]
        rows.append(("teacher", f"{100 * distilled['teacher_miou']:.2f}", where))
    if "gap_closed" in distilled:
        rows.append(("gap closed", f"{distilled['gap_closed']:.0%}"))
    again = "Repeat both with --seed 1 and --seed 2, then run freqkd compare."
    return f"{columns(rows)}\nOne seed is no proof. {again}"
