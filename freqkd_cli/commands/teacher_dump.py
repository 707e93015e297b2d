"""``freqkd teacher-dump``: cache the teacher's outputs for a recipe."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from freqkd_cli.commands._early import check_recipe
from freqkd_cli.commands._options import (
    DataRoot,
    Device,
    DryRun,
    Json,
    Limit,
    Nproc,
    Overwrite,
    Quiet,
    RecipeArgument,
    Resume,
    Seed,
    Sets,
    SplitName,
    Verbose,
)
from freqkd_cli.commands._output import check_parents, columns, facts, print_result
from freqkd_cli.runtime.logs import warn

MANY_PROCESSES = True


Content = Annotated[
    Literal["taps", "targets"],
    typer.Option(
        help="taps fit many recipes; targets fit only these losses and are usually smaller."
    ),
]
Dtype = Annotated[
    Literal["fp16", "bf16", "fp32", "int8"],
    typer.Option(help="Float type on disk; int8 has a range per channel or row."),
]
Scores = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="K",
        help="Keep the K largest class scores of each cell and the sum of the others.",
    ),
]
Split = Annotated[
    SplitName,
    typer.Option(help="train: data.views views per image; val, test: whole images."),
]
Verify = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="N",
        help="Compare N views with the live teacher; exit code 3 if they differ.",
    ),
]


def run(
    recipe: RecipeArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the cache.")],
    sets: Sets = None,
    data_root: DataRoot = None,
    content: Content = "taps",
    dtype: Dtype = "fp16",
    scores: Scores = None,
    split: Split = "train",
    verify: Verify = 0,
    limit: Limit = None,
    seed: Seed = None,
    device: Device = None,
    nproc: Nproc = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = 0,
) -> None:
    """Cache the teacher's outputs for a recipe.

    The teacher runs once on each of the data.views views of every image. Pass the cache to
    freqkd distill --cache. With --dry-run, print items, size and expected duration, and compare
    --content, --dtype and --scores: their bytes, and the largest error of a loss and the smallest
    cosine of its gradient against float32, on a few views and the untrained student.

        freqkd teacher-dump fastscnn_basic --out caches/a --verify 16
    """
    check_recipe(recipe)
    from freqkd_cli import recipe as recipes
    from freqkd_cli.errors import UsageError
    from freqkd_cli.report.progress_bars import progress
    from freqkd_cli.teacher import dump_recipe
    from freqkd_cli.teacher.recipe_cache import Form

    if resume and overwrite:
        raise UsageError(
            "--resume completes the cache in --out, --overwrite replaces it",
            tip="give one of them",
        )
    check_parents("--out", out)
    loaded = recipes.load(
        recipe, sets or (), {"data.root": data_root and str(data_root), "train.seed": seed}
    )
    warn(loaded.warnings)
    mode = "resume" if resume else "overwrite" if overwrite else "new"
    options = dump_recipe.DumpOptions(
        Form(content, dtype, scores, split, limit), device, mode, verify
    )
    if dry_run:
        compared = dataclasses.replace(options, compare=True)
        print_result(dump_recipe.dry_run(loaded, out, compared), as_json, _table)
    else:
        print_result(
            dump_recipe.dump_recipe(loaded, out, progress(verbose - quiet), options),
            as_json,
            _table,
        )


def _table(result: dict[str, Any]) -> str:
    from freqkd_cli.runtime.byte_sizes import size

    shown = {key: value for key, value in result.items() if key not in ("bytes", "choices")}
    text = facts(shown | ({"size": size(result["bytes"])} if "bytes" in result else {}))
    return f"{text}\n\n{_choices(result['choices'])}" if result.get("choices") else text


def _choices(rows: list[dict[str, Any]]) -> str:
    """Return the forms of a cache as a table; of all losses, the one that differs most."""
    from freqkd_cli.runtime.byte_sizes import size

    differences = ("largest loss error", "lowest gradient cosine", "of loss")
    lines: list[tuple[Any, ...]] = [
        ("content", "dtype", "scores", "size", "KiB a view", "seconds", *differences)
    ]
    for row in rows:
        losses = row["losses"]
        worst = min(losses, key=lambda id: losses[id]["gradient_cosine"], default="")
        error = max((loss["relative_error"] for loss in losses.values()), default=0.0)
        cosine = losses[worst]["gradient_cosine"] if worst else 1.0
        shown = (
            size(row["bytes"]),
            f"{row['bytes_per_view'] / 1024:,.1f}",
            f"{row['seconds']:,.1f}",
            f"{error:.1e}",
            f"{cosine:.5f}",
        )
        lines.append((row["content"], row["dtype"], row["scores"] or "all", *shown, worst))
    return columns(lines)
