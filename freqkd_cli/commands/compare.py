"""``freqkd compare``: runs side by side, in a table and in a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from freqkd_cli.commands._early import check_exist
from freqkd_cli.commands._options import DataRoot, Device, Json, Limit, Quiet, Split, Verbose
from freqkd_cli.commands._output import check_file, print_result


def run(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Folders that freqkd distill wrote, on the same data."),
    ],
    picture: Annotated[
        Path | None,
        typer.Option(
            "--picture", metavar="FILE", help="Write the predictions beside the labels as a PNG."
        ),
    ] = None,
    split: Split = "val",
    limit: Limit = None,
    data_root: DataRoot = None,
    device: Device = None,
    as_json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = 0,
) -> None:
    """Score runs on the same images, their teacher beside them.

    freqkd compare runs/ce runs/basic --picture comparison.png
    """
    check_exist(runs, "run folders, written by freqkd distill")
    from freqkd_cli.report.pictures import comparison
    from freqkd_cli.report.progress_bars import progress
    from freqkd_cli.score.comparison import compare

    check_file("--picture", picture, ".png")
    listener = progress(verbose - quiet)
    found = compare(
        runs, listener, split=split, limit=limit or 0, data_root=data_root, device=device
    )
    if picture:
        comparison(found.panels, found.classes, found.palette, picture)
        listener.note(f"written: {picture}")
    print_result({"split": split, "models": found.rows, "picture": picture}, as_json, _table)


def _table(result: dict[str, Any]) -> str:
    from freqkd_cli.report.tables import Column, render

    heads = [
        "",
        Column("mIoU", ".2f"),
        Column("boundary IoU", ".2f"),
        Column("parameters", ",d"),
        Column("ms an image", ".1f"),
    ]
    rows = [
        [
            row["name"],
            _percent(row["miou"]),
            _percent(row["boundary_iou"]),
            row["parameters"],
            row["latency_ms"],
        ]
        for row in result["models"]
    ]
    note = f"picture: {result['picture']}" if result["picture"] else ""
    return "\n".join(
        filter(
            None,
            (
                render(
                    heads,
                    rows,
                    title=f"{result['models'][0]['images']} images, split {result['split']}",
                ),
                note,
            ),
        )
    )


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
