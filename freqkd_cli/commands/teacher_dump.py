"""``freqkd teacher-dump``: run the teacher once and keep what the losses read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from freqkd_cli.commands._early import check_recipe
from freqkd_cli.commands._options import (
    DataRoot,
    Device,
    DryRun,
    Json,
    Limit,
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
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the cache.")],
    sets: Sets = None,
    data_root: DataRoot = None,
    content: Annotated[
        Literal["taps", "targets"],
        typer.Option(
            help="taps serve many recipes; targets are smaller and fit these losses only."
        ),
    ] = "taps",
    dtype: Annotated[
        Literal["fp16", "bf16", "fp32"], typer.Option(help="Float type on disk.")
    ] = "fp16",
    split: Annotated[
        Literal["train", "val", "test"],
        typer.Option(help="train: data.views of each image; else the whole one."),
    ] = "train",
    verify: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Compare N views with the live teacher; exit 3 where they differ.",
        ),
    ] = 0,
    limit: Limit = None,
    seed: Seed = None,
    device: Device = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = 0,
) -> None:
    """Run the teacher once and keep what the losses read.

    It sees each of the data.views views of every image. What is kept goes to freqkd distill --cache.

        freqkd teacher-dump fastscnn_basic --out caches/a --verify 16
    """
    check_recipe(recipe)
    from freqkd_cli import recipe as recipes
    from freqkd_cli.errors import UsageError
    from freqkd_cli.report.progress_bars import progress
    from freqkd_cli.teacher import dump_recipe
    from freqkd_cli.teacher.opening import Form

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
    mode = "resume" if resume else "overwrite" if overwrite else "new"
    options = dump_recipe.DumpOptions(Form(content, dtype, split, limit), device, mode, verify)
    if dry_run:
        print_result(dump_recipe.dry_run(loaded, out, options), as_json, facts)
    else:
        print_result(
            dump_recipe.dump_recipe(loaded, out, progress(verbose - quiet), options), as_json, facts
        )
