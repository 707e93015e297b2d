"""``freqkd tune``: search the values of a recipe that score best on held-out training images."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from freqkd_cli.commands._early import check_recipe
from freqkd_cli.commands._options import (
    DataRoot,
    Device,
    DryRun,
    Json,
    Quiet,
    RecipeArgument,
    Seed,
    Sets,
    Verbose,
)
from freqkd_cli.commands._output import check_parents, columns, facts, print_result
from freqkd_cli.runtime.logs import warn

log = logging.getLogger(__name__)

SHOWN = 10
"""Rows of the table at most; --json has all."""


def run(
    recipe: RecipeArgument,
    searches: Annotated[
        list[str],
        typer.Option(
            "--search",
            metavar="KEY=VALUES",
            help="Key to tune and its values: 0.3..10, 0.3..10:log, 2..8:int, or a,b,c "
            "(repeatable).",
        ),
    ],
    study: Annotated[
        Path,
        typer.Option("--study", metavar="DIR", help="Folder of the study; continued if it exists."),
    ],
    trials: Annotated[
        int,
        typer.Option("--trials", min=1, metavar="N", help="Number of trials in the whole study."),
    ] = 20,
    hold_out: Annotated[
        float | None,
        typer.Option(
            "--hold-out",
            metavar="SHARE",
            help="Share of the training images that is scored and not trained on; the default is "
            "data.hold_out of the recipe, else 0.2.",
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option("--cache", metavar="DIR", help="Read the teacher's outputs from a cache."),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            metavar="URL",
            help="Database of the trials, such as sqlite:///trials.db; the default is a file in "
            "the study folder.",
        ),
    ] = None,
    prune: Annotated[
        bool, typer.Option(help="Stop trials that score below the median of earlier ones.")
    ] = True,
    sets: Sets = None,
    data_root: DataRoot = None,
    seed: Seed = None,
    device: Device = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = 0,
) -> None:
    """Tune values of a recipe on held-out training images.

    Each trial trains the recipe with other values. A share of the training images is held out and
    scored; the validation split is never read. The best recipe is written to DIR/best.yaml.

    The same command continues an interrupted study. Several processes may run it at once.

        freqkd tune quickstart --search losses.kl.weight=0.3..10:log --study kl
        freqkd tune mine.yaml --search train.lr=1e-4..1e-2:log --study studies/lr
    """
    check_recipe(recipe)
    from freqkd_cli import recipe as recipes
    from freqkd_cli.errors import UsageError
    from freqkd_cli.lab.search_space import read_searches

    check_parents("--study", study)
    if hold_out is not None and not 0 < hold_out < 1:
        raise UsageError(
            f"--hold-out {hold_out:g} is not a share", need="a number between 0 and 1, such as 0.2"
        )
    read_searches(searches)  # before torch is imported
    loaded = recipes.load(
        recipe, sets or (), {"data.root": data_root and str(data_root), "train.seed": seed}
    )
    warn(loaded.warnings)
    from freqkd_cli.lab.tune_worker import TuneOptions
    from freqkd_cli.lab.tuning import tune
    from freqkd_cli.report.progress_bars import progress

    words = [recipe, *(word for text in searches for word in ("--search", text))]
    words += [word for text in sets or () for word in ("--set", text)]
    given = {"--trials": trials, "--hold-out": hold_out, "--cache": cache, "--seed": seed}
    given |= {"--data-root": data_root, "--study": study}
    words += [str(w) for name, x in given.items() if x is not None for w in (name, x)]
    command = shlex.join(["freqkd", "tune", *words, *([] if prune else ["--no-prune"])])
    options = TuneOptions(tuple(searches), trials, storage, hold_out, cache, device, prune, command)
    result = tune(loaded, study, options, progress(verbose - quiet), dry_run=dry_run)
    print_result(result, as_json, facts if dry_run else _table)
    if not dry_run and result["best_recipe"]:
        log.info("Next: freqkd distill %s --out runs/best", shlex.quote(result["best_recipe"]))


def _table(result: dict[str, Any]) -> str:
    """Return the best trials, and how many images they were scored on."""
    keys = list(result["rows"][0]["values"]) if result["rows"] else []
    rows: list[tuple[Any, ...]] = [("trial", "mIoU", "state", *keys)]
    for row in result["rows"][:SHOWN]:
        miou = "" if row["miou"] is None else f"{100 * row['miou']:.2f}"
        values = (row["values"].get(key) for key in keys)
        rows.append((str(row["trial"]), miou, row["state"], *map(_shown, values)))
    states = ("complete", "pruned", "failed", "running")
    counts = ", ".join(f"{result[state]} {state}" for state in states if result[state])
    scored, images = result["held_out_images"], result["images"]
    best = result["best_recipe"] or "no trial is finished yet"
    return (
        f"{columns(rows)}\n\n{result['trials']} trials: {counts}. Scored on {scored} held-out "
        f"training images, trained on {images}.\nBest recipe: {best}"
    )


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)
