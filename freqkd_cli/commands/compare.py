"""``freqkd compare``: runs side by side, in a table and in an image."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from freqkd_cli.commands._early import check_exist
from freqkd_cli.commands._options import DataRoot, Device, Json, Limit, Quiet, Split, Verbose
from freqkd_cli.commands._output import check_file, print_result
from freqkd_cli.commands._scoring import BatchSize

log = logging.getLogger(__name__)


def run(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Folders that freqkd distill wrote, on the same data."),
    ],
    image: Annotated[
        Path | None,
        typer.Option(
            "--image",
            metavar="FILE",
            help="Draw the predictions beside the labels into this PNG, for images spread over "
            "the split.",
        ),
    ] = None,
    picture: Annotated[Path | None, typer.Option("--picture", hidden=True)] = None,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", metavar="TEXT", help="Name of a run; once per run, in order."),
    ] = None,
    split: Split = "val",
    batch_size: BatchSize = None,
    limit: Limit = None,
    data_root: DataRoot = None,
    device: Device = None,
    as_json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = 0,
) -> None:
    """Score runs and their teacher on the same images.

    The table is in percent, JSON holds fractions. With --image, images of the whole split are
    drawn, whatever --limit.

        freqkd compare runs/ce runs/basic --image comparison.png
    """
    check_exist(runs, "run folders, written by freqkd distill")
    from freqkd_cli.report.comparison_image import comparison
    from freqkd_cli.report.progress_bars import progress
    from freqkd_cli.score.comparison import compare

    check_file("--image", image, ".png")
    check_file("--picture", picture, ".png")
    image = image or picture
    result = compare(
        runs,
        progress(verbose - quiet),
        names=name or (),
        split=split,
        limit=limit or 0,
        images=4 if image else 0,
        data_root=data_root,
        device=device,
        batch_size=batch_size,
    )
    if image:
        comparison(result.panels, result.classes, result.palette, image)
    print_result({"split": split, "models": result.rows, "picture": image}, as_json, _table)
    log.info("Next: freqkd spectrum %s --stage 3, or freqkd export RUN --format onnx", runs[-1])


def _table(result: dict[str, Any]) -> str:
    from freqkd_cli.report.tables import Column, render
    from freqkd_cli.score.tally import numbers

    models, shown = result["models"], numbers()
    headings = [Column(number.heading, ".2f") for number in shown.values()]
    training = ["", "trained with", Column("steps", ",d")]
    headings = [*training, *headings, Column("parameters", ",d"), Column("ms per image", ".1f")]
    rows = [
        [
            row["name"],
            *_trained_with(row),
            *(number.printed(row[name]) for name, number in shown.items()),
            row["parameters"],
            row["latency_ms"],
        ]
        for row in models
    ]
    table = render(headings, rows, title=f"{models[0]['images']} images, split {result['split']}")
    return f"{table}\nimage: {result['picture']}" if result["picture"] else table


def _trained_with(row: dict[str, Any]) -> tuple[str, int | None]:
    """Return what a model was trained with, in words, and its number of steps."""
    from freqkd_cli.score.supervision import Supervision

    if row["trained_with"] is None:
        return "", None
    trained_with = Supervision(**row["trained_with"])
    return trained_with.in_words(), trained_with.steps
