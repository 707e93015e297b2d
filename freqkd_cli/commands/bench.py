"""``freqkd bench``: measure the cost of a training step, part by part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from freqkd_cli.commands._early import check_recipe
from freqkd_cli.commands._options import (
    DataRoot,
    Device,
    Json,
    Quiet,
    RecipeArgument,
    Sets,
    Verbose,
)
from freqkd_cli.commands._output import columns, print_result
from freqkd_cli.runtime.logs import warn


def run(
    recipe: RecipeArgument,
    cache: Annotated[
        Path | None,
        typer.Option("--cache", metavar="DIR", help="Read the teacher from a cache."),
    ] = None,
    steps: Annotated[
        int, typer.Option("--steps", min=1, metavar="N", help="Number of measured steps.")
    ] = 10,
    against_ce: Annotated[
        bool,
        typer.Option(
            help="Also measure a step of cross-entropy alone and the bare teacher, in turn."
        ),
    ] = True,
    sets: Sets = None,
    data_root: DataRoot = None,
    device: Device = None,
    as_json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = 0,
) -> None:
    """Measure the cost of a training step and what bounds it.

    Times are medians with quartiles, and the parts of a step add up to it. Operations are those of
    convolutions, matrix products, Fourier transforms and scans. A multiply-add counts 2, and the
    student's backward pass counts as two forward passes. Memory is the peak of this process on a
    CPU, and of tensors on a GPU. Nothing is written.

        freqkd bench fastscnn_basic --steps 15
    """
    check_recipe(recipe)
    from freqkd_cli import recipe as recipes
    from freqkd_cli.bench.measure import bench
    from freqkd_cli.bench.measured_loop import BenchOptions
    from freqkd_cli.report.progress_bars import progress

    loaded = recipes.load(recipe, sets or (), {"data.root": data_root and str(data_root)})
    warn(loaded.warnings)
    print_result(
        bench(loaded, BenchOptions(cache, steps, against_ce, device), progress(verbose - quiet)),
        as_json,
        _table,
    )


RATIOS = {
    "over_ce": "step / CE-only step",
    "over_teacher_and_ce": "step / (bare teacher + CE-only step)",
}


def _table(result: dict[str, Any]) -> str:
    from freqkd_cli.runtime.byte_sizes import size

    head = ("part", "ms", "quartiles", "share", "GFLOP", "GFLOP/s")
    rows = [
        _row(part["name"], part["ms"], part["share"], part["gflop"]) for part in result["parts"]
    ]
    rows.append(_row("step", result["step_ms"], 1.0, result["gflop"]))
    threads = f"{result['threads']} thread{'s' * (result['threads'] != 1)}"
    shape, data = "x".join(map(str, result["size"])), result["data"]
    views = result["batch_size"] * result["accumulate"]
    steps = f"{result['steps']} step{'s' * (result['steps'] != 1)}"
    facts = [
        ("images per second", f"{result['images_per_second']:g}"),
        ("peak memory", size(result["memory_bytes"])),
        (
            "one batch, one process",
            f"read {data['read_ms']:.0f} ms, views {data['views_ms']:.0f} ms; "
            f"data.workers {data['workers']}",
        ),
        ("measured", f"{steps} of {views} views of {shape}, {threads}"),
    ]
    ratios = result["ratios"]
    facts += [(label, _ratio(ratios[key])) for key, label in RATIOS.items() if key in ratios]
    return f"{columns([head, *rows])}\n\n{columns(facts)}\n\n{result['bound']}."


def _row(name: str, ms: dict[str, float], share: float, gflop: float) -> tuple[str, ...]:
    speed = f"{gflop / ms['median'] * 1e3:.1f}" if gflop and ms["median"] else ""
    return (
        name,
        f"{ms['median']:.1f}",
        f"{ms['low']:.1f} to {ms['high']:.1f}",
        f"{share:.1%}",
        f"{gflop:.2f}" if gflop else "",
        speed,
    )


def _ratio(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})"
