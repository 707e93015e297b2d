"""``freqkd eval``: score a model on a split."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from freqkd_cli.commands._early import check_recipe, check_source
from freqkd_cli.commands._exporting import export_command
from freqkd_cli.commands._options import (
    DataRoot,
    Device,
    Json,
    Limit,
    Nproc,
    Overwrite,
    Quiet,
    Sets,
    Split,
    Verbose,
)
from freqkd_cli.commands._output import blocks, columns, print_result
from freqkd_cli.commands._scoring import (
    BatchSize,
    Flip,
    Metrics,
    Scales,
    Slide,
    Stride,
    number_rows,
    number_text,
    parse_metrics,
)

MANY_PROCESSES = True
log = logging.getLogger(__name__)


Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A run, an exported .onnx or .pt2 file, a model's folder (with --recipe), or a recipe "
        "(with --teacher or --predictions).",
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe", metavar="RECIPE", help="Recipe that defines the data; not with --teacher."
    ),
]
Predictions = Annotated[
    Path | None,
    typer.Option(
        "--predictions",
        metavar="DIR",
        help="Score the label PNGs in this folder, named like the images. Runs no model.",
    ),
]
PixelCoding = Annotated[
    Literal["train-ids", "masks", "colors"] | None,
    typer.Option(
        "--coding",
        help="What the pixels of --predictions hold: class numbers (the default), the values of "
        "the data set's masks, or its colors.",
        show_default=False,
    ),
]
Masks = Annotated[
    Path | None,
    typer.Option("--masks", metavar="DIR", help="Write the predicted labels as PNGs."),
]
MinMiou = Annotated[
    float | None,
    typer.Option(
        "--min-miou",
        min=0,
        max=100,
        metavar="PERCENT",
        help="Exit with code 3 if the mIoU is below this, in percent.",
    ),
]


def run(
    source: Source,
    split: Split = "val",
    teacher: Annotated[bool, typer.Option("--teacher", help="Score the recipe's teacher.")] = False,
    recipe: Recipe = None,
    predictions: Predictions = None,
    coding: PixelCoding = None,
    flip: Flip = False,
    scales: Scales = None,
    slide: Slide = None,
    stride: Stride = None,
    masks: Masks = None,
    overwrite: Overwrite = False,
    min_miou: MinMiou = None,
    metrics: Metrics = None,
    batch_size: BatchSize = None,
    limit: Limit = None,
    data_root: DataRoot = None,
    sets: Sets = None,
    device: Device = None,
    nproc: Nproc = None,
    as_json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = 0,
) -> None:
    """Score a model on a split: mIoU, parameters, latency.

    The mIoU is that of one confusion matrix over the split. Logits are upsampled to the labels' own
    size before the argmax. Classes that are neither labelled nor predicted are left out of the mean
    and listed. Tables are in percent, JSON holds fractions.

    The default is one pass over the whole image. With --flip, --scales or --slide, softmax
    probabilities are averaged, and the result lists what was averaged (test_time).

    An exported file is scored on the data of the recipe.yaml beside it, or of --recipe.

        freqkd eval runs/basic --split test --metrics boundary_f,object_size
    """
    check_source(source, as_recipe=teacher or predictions is not None)
    check_recipe(recipe)
    requested = parse_metrics(metrics)
    from freqkd_cli.report.progress_bars import progress
    from freqkd_cli.score.averaging import parse
    from freqkd_cli.score.eval_source import EvalOptions, evaluate

    options = EvalOptions(
        split=split,
        teacher=teacher,
        recipe=recipe,
        masks=masks,
        overwrite=overwrite,
        limit=limit or 0,
        min_miou=None if min_miou is None else min_miou / 100,
        data_root=data_root,
        device=device,
        sets=tuple(sets or ()),
        predictions=predictions,
        coding=coding,
        averaging=parse(flip, scales, slide, stride),
        batch_size=batch_size,
        metrics=requested,
    )
    print_result(evaluate(source, options, progress(verbose - quiet)), as_json, _table)
    if Path(source).is_dir() and not teacher and not predictions:
        log.info(
            "Next: freqkd predict %s PHOTOS --out out/photos, or %s",
            shlex.quote(source),
            export_command(Path(source)),
        )


def _table(result: dict[str, Any]) -> str:
    """One row per class, then one per number of the split."""
    from freqkd_cli import registry
    from freqkd_cli.score.tally import numbers_per_class

    first = result["per_class"][0]
    shown = {
        name: number for name, number in numbers_per_class([registry.ALL]).items() if name in first
    }
    rows: list[tuple[str, ...]] = [("class", *(number.heading for number in shown.values()))]
    for row in result["per_class"]:
        cells = (number_text(number.printed(row[name])) for name, number in shown.items())
        rows.append((row["name"], *cells))
    whole = [*number_rows(result), ("images", str(result["images"]))]
    if result["coding"]:
        whole.append(("coding", result["coding"]))
    if result["test_time"]:
        whole.append(("test time", result["test_time"]["text"]))
    whole += _cost(result) if result["latency_size"] is not None else []
    return "\n\n".join(map(columns, blocks(rows, whole)))


def _cost(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """What only a model has, or an exported file."""
    from freqkd_cli.runtime.byte_sizes import size

    height, width = result["latency_size"]
    threads = f"{result['threads']} thread{'s' * (result['threads'] != 1)}"
    where = f"{height}x{width}, {result['device']}, {threads}"
    if result["parameters"] is None:
        first = ("file", size(result["bytes"]))
    else:
        first = ("parameters", f"{result['parameters']:,}")
    return [
        first,
        (f"ms per image, {where}", f"{result['latency_ms']:.1f}"),
    ]
