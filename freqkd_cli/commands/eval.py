"""``freqkd eval``: score a model on a split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from freqkd_cli.commands._options import DataRoot, Device, Json, Limit, Quiet, Sets, Split, Verbose
from freqkd_cli.commands._output import columns, print_result

MANY_PROCESSES = True


def run(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A run, a model's folder (with --recipe), or a recipe (with --teacher).")],
    split: Split = "val",
    teacher: Annotated[bool, typer.Option("--teacher", help="Score the recipe's teacher.")] = False,
    recipe: Annotated[
        str | None, typer.Option("--recipe", metavar="RECIPE", help="Whose data to use, where the source does not say.")
    ] = None,
    masks: Annotated[Path | None, typer.Option("--masks", metavar="DIR", help="Write the predicted labels as PNGs.")] = None,
    min_miou: Annotated[
        float | None, typer.Option("--min-miou", min=0, max=100, metavar="PERCENT", help="Exit 3 below this mIoU, in percent.")
    ] = None,
    limit: Limit = None,
    data_root: DataRoot = None,
    sets: Sets = None,
    device: Device = None,
    as_json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = 0,
) -> None:
    """Score a model: mIoU, boundary IoU, parameters, latency.

    The mIoU is that of one confusion matrix over the split. Logits are upsampled to the labels' own size before the argmax; classes with an
    empty union are left out of the mean and named.

        freqkd eval runs/basic --split test --masks out/masks
    """
    from freqkd_cli.engine.evaluate_source import Options, evaluate
    from freqkd_cli.report.progress import progress

    least = None if min_miou is None else min_miou / 100
    options = Options(split, teacher, recipe, masks, limit or 0, least, data_root, device, tuple(sets or ()))
    print_result(evaluate(source, options, progress(verbose - quiet)), as_json, _table)


def _table(found: dict[str, Any]) -> str:
    def percent(value: float | None) -> str:
        return "absent" if value is None else f"{100 * value:.2f}"

    rows: list[tuple[str, Any]] = [(row["name"], percent(row["iou"])) for row in found["per_class"]]
    rows += [("", "")] + [
        (name.replace("_", " "), percent(found[name])) for name in ("miou", "boundary_iou", "pixel_accuracy", "mean_accuracy")
    ]
    height, width = found["latency_size"]
    threads = f"{found['threads']} thread{'s' * (found['threads'] != 1)}"
    rows += [
        ("images", str(found["images"])),
        ("parameters", f"{found['parameters']:,}"),
        (f"ms an image, {height}x{width}, {found['device']}, {threads}", f"{found['latency_ms']:.1f}"),
    ]
    return columns(rows)
