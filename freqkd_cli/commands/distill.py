"""``freqkd distill``: train a student after a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from freqkd_cli.commands._early import check_recipe
from freqkd_cli.commands._options import (
    DataRoot,
    Device,
    DryRun,
    Json,
    Overwrite,
    Quiet,
    RecipeArgument,
    Resume,
    Seed,
    Sets,
    Verbose,
)
from freqkd_cli.commands._output import check_parents, facts, print_result
from freqkd_cli.runtime.logs import warn

MANY_PROCESSES = True


def run(
    recipe: RecipeArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the run.")],
    cache: Annotated[
        Path | None,
        typer.Option("--cache", metavar="DIR", help="Read the teacher from a cache, not live."),
    ] = None,
    sets: Sets = None,
    data_root: DataRoot = None,
    seed: Seed = None,
    device: Device = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = 0,
) -> None:
    """Train a recipe's student, with or without a teacher.

    The teacher runs live, or --cache gives what freqkd teacher-dump kept of it.

        freqkd distill fastscnn_basic --cache caches/a --out runs/basic
    """
    check_recipe(recipe)
    from freqkd_cli import recipe as recipes
    from freqkd_cli.errors import UsageError
    from freqkd_cli.report.progress_bars import progress
    from freqkd_cli.train.distillation import distill

    if resume and overwrite:
        raise UsageError(
            "--resume goes on with what is there, --overwrite throws it away",
            tip="give one of them",
        )
    check_parents("--out", out)
    loaded = recipes.load(
        recipe, sets or (), {"data.root": data_root and str(data_root), "train.seed": seed}
    )
    warn(loaded.warnings)
    listener = progress(verbose - quiet)
    result = distill(
        loaded,
        out,
        listener,
        cache=cache,
        device=device,
        resume=resume,
        overwrite=overwrite,
        dry_run=dry_run,
    )
    print_result(result, as_json, facts)
