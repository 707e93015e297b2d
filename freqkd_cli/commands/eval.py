"""``freqkd eval``: score a model on a split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from freqkd_cli.commands._early import check_recipe, check_source
from freqkd_cli.commands._options import (
    DataRoot,
    Device,
    Json,
    Limit,
    Overwrite,
    Quiet,
    Sets,
    Split,
    Verbose,
)
from freqkd_cli.commands._output import columns, print_result

MANY_PROCESSES = True


def run(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A run, a model's folder (with --recipe), or a recipe (with --teacher or --predictions).",
        ),
    ],
    split: Split = "val",
    teacher: Annotated[bool, typer.Option("--teacher", help="Score the recipe's teacher.")] = False,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", metavar="RECIPE", help="Whose data to use, where the source does not say."
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions",
            metavar="DIR",
            help="Score these label PNGs, named as the images, and run no model.",
        ),
    ] = None,
    flip: Annotated[
        bool, typer.Option("--flip", help="Average with the mirrored picture.")
    ] = False,
    scales: Annotated[
        str | None,
        typer.Option("--scales", metavar="S,S", help="Average over zooms, such as 0.75,1.0,1.25."),
    ] = None,
    slide: Annotated[
        str | None,
        typer.Option(
            "--slide",
            metavar="H,W",
            help="Run in windows of this size (multiples of 32) and average overlaps.",
        ),
    ] = None,
    stride: Annotated[
        str | None,
        typer.Option(
            "--stride", metavar="H,W", help="From window to window; half a window by default."
        ),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option("--masks", metavar="DIR", help="Write the predicted labels as PNGs."),
    ] = None,
    overwrite: Overwrite = False,
    min_miou: Annotated[
        float | None,
        typer.Option(
            "--min-miou",
            min=0,
            max=100,
            metavar="PERCENT",
            help="Exit 3 below this mIoU, in percent.",
        ),
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
    empty union are left out of the mean and named. One pass over the whole picture, unless --flip, --scales or --slide ask for more; then
    softmax probabilities are averaged, and the result says so (test_time).

        freqkd eval runs/basic --split test --masks out/masks
    """
    check_source(source, as_recipe=teacher or predictions is not None)
    check_recipe(recipe)
    from freqkd_cli.report.progress_bars import progress
    from freqkd_cli.score.averaging import parse
    from freqkd_cli.score.evaluate_source import Options, evaluate

    least = None if min_miou is None else min_miou / 100
    averaging = parse(flip, scales, slide, stride)
    options = Options(
        split,
        teacher,
        recipe,
        masks,
        overwrite,
        limit or 0,
        least,
        data_root,
        device,
        tuple(sets or ()),
        predictions,
        averaging,
    )
    print_result(evaluate(source, options, progress(verbose - quiet)), as_json, _table)


def _table(found: dict[str, Any]) -> str:
    def percent(value: float | None) -> str:
        return "absent" if value is None else f"{100 * value:.2f}"

    rows: list[tuple[str, Any]] = [(row["name"], percent(row["iou"])) for row in found["per_class"]]
    rows += [("", "")] + [
        (name.replace("_", " "), percent(found[name]))
        for name in ("miou", "boundary_iou", "pixel_accuracy", "mean_accuracy")
    ]
    rows.append(("images", str(found["images"])))
    if found["test_time"]:
        rows.append(("test time", found["test_time"]["text"]))
    return columns(rows + (_cost(found) if found["parameters"] is not None else []))


def _cost(found: dict[str, Any]) -> list[tuple[str, Any]]:
    """What only a model has."""
    height, width = found["latency_size"]
    threads = f"{found['threads']} thread{'s' * (found['threads'] != 1)}"
    return [
        ("parameters", f"{found['parameters']:,}"),
        (
            f"ms an image, {height}x{width}, {found['device']}, {threads}",
            f"{found['latency_ms']:.1f}",
        ),
    ]
