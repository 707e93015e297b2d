"""``freqkd compare``: runs side by side, in a table and in a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from freqkd_cli.commands._options import DataRoot, Device, Json, Limit, Quiet, Split, Verbose
from freqkd_cli.commands._output import check_file, print_result


def run(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders that freqkd distill wrote, on the same data.")],
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE", help="Write the predictions beside the labels as a PNG.")
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", metavar="TEXT", help="Name of a run; once per run, in order."),
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
    from freqkd_cli.engine.compare import compare
    from freqkd_cli.report.pictures import comparison
    from freqkd_cli.report.progress import progress

    check_file("--picture", picture, ".png")
    listener = progress(verbose - quiet)
    options = {"split": split, "limit": limit or 0, "data_root": data_root, "device": device}
    found = compare(runs, listener, names=name or (), **options)
    if picture:
        comparison(found.panels, found.classes, found.palette, picture)
        listener.note(f"written: {picture}")
    print_result({"split": split, "models": found.rows, "picture": picture}, as_json, _table)


def _table(result: dict[str, Any]) -> str:
    from freqkd_cli.report.tables import Column, render

    heads = [
        "",
        "trained with",
        Column("steps", ",d"),
        Column("mIoU", ".2f"),
        Column("boundary IoU", ".2f"),
        Column("parameters", ",d"),
        Column("ms an image", ".1f"),
    ]
    rows = [_cells(row) for row in result["models"]]
    note = f"picture: {result['picture']}" if result["picture"] else ""
    return "\n".join(filter(None, (render(heads, rows, title=f"{result['models'][0]['images']} images, split {result['split']}"), note)))


def _cells(row: dict[str, Any]) -> list[Any]:
    from freqkd_cli.engine.supervision import Supervision

    trained_with = Supervision(**row["trained_with"]) if row["trained_with"] else None
    training = [trained_with.in_words(), trained_with.steps] if trained_with else ["", None]
    scores = [_percent(row["miou"]), _percent(row["boundary_iou"])]
    return [row["name"], *training, *scores, row["parameters"], row["latency_ms"]]


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
