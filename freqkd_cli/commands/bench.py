"""``freqkd bench``: what a training step costs, part by part."""

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
        typer.Option("--cache", metavar="DIR", help="Read the teacher from a cache, not live."),
    ] = None,
    steps: Annotated[
        int, typer.Option("--steps", min=1, metavar="N", help="Steps that are measured.")
    ] = 10,
    against_ce: Annotated[
        bool,
        typer.Option(
            help="Also take turns with a step of cross-entropy alone, and with the bare teacher."
        ),
    ] = True,
    sets: Sets = None,
    data_root: DataRoot = None,
    device: Device = None,
    as_json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = 0,
) -> None:
    """Say what a training step costs and what bounds it.

    Times are medians with their quartiles; the parts of a step add up to it. Operations are those of convolutions, matrix products,
    Fourier transforms and scans: a multiply-add counts 2, the student's backward pass as two of its forward passes. Memory is the peak of
    this process on a CPU, of tensors on a GPU. Nothing is written.

        freqkd bench fastscnn_basic --steps 15
    """
    check_recipe(recipe)
    from freqkd_cli import recipe as recipes
    from freqkd_cli.bench.measure import Options, bench
    from freqkd_cli.report.progress_bars import progress

    loaded = recipes.load(recipe, sets or (), {"data.root": data_root and str(data_root)})
    warn(loaded.warnings)
    print_result(
        bench(loaded, Options(cache, steps, against_ce, device), progress(verbose - quiet)),
        as_json,
        _table,
    )


def _table(found: dict[str, Any]) -> str:
    from freqkd_cli.report.tables import size

    head = ("part", "ms", "quartiles", "share", "GFLOP", "GFLOP/s")
    rows = [_row(part["name"], part["ms"], part["share"], part["gflop"]) for part in found["parts"]]
    rows.append(_row("step", found["step_ms"], 1.0, found["gflop"]))
    threads = f"{found['threads']} thread{'s' * (found['threads'] != 1)}"
    data = found["data"]
    facts = [
        ("images a second", f"{found['images_per_second']:g}"),
        ("peak memory", size(found["memory_bytes"])),
        (
            "a batch of data",
            f"reading {data['read_ms']:.0f} ms, views {data['views_ms']:.0f} ms in one process; data.workers {data['workers']}",
        ),
        (
            "measured",
            f"{found['steps']} steps of {found['batch_size']} views of {'x'.join(map(str, found['size']))}, {threads}",
        ),
        *(
            (said, _ratio(found["ratios"][name]))
            for name, said in RATIOS.items()
            if name in found["ratios"]
        ),
    ]
    return f"{columns([head, *rows])}\n\n{columns(facts)}\n\n{found['bound']}."


RATIOS = {
    "over_ce": "step / CE-only step",
    "over_teacher_and_ce": "step / (bare teacher + CE-only step)",
}


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
