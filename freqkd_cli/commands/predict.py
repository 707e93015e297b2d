"""``freqkd predict``: labels of pictures, as colour overlays and label PNGs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from freqkd_cli.commands._early import check_exist
from freqkd_cli.commands._options import Device, Json, Overwrite, Quiet, Verbose
from freqkd_cli.commands._output import columns, print_result


def run(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="A run, or a folder with a model of freqkd's or a SegFormer."
        ),
    ],
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGES", help="Pictures, or folders of them.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where the PNGs and legend.json go.")
    ],
    alpha: Annotated[
        float,
        typer.Option("--alpha", min=0, max=1, metavar="SHARE", help="Of the colour in an overlay."),
    ] = 0.5,
    labels_only: Annotated[bool, typer.Option("--labels-only", help="No overlays.")] = False,
    overwrite: Overwrite = False,
    device: Device = None,
    as_json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = 0,
) -> None:
    """Label pictures: a colour overlay and a label PNG each.

    NAME.png holds class numbers as palette indices, NAME_overlay.png shows them over the picture, legend.json names the classes and their
    colours. Pictures are turned upright as their EXIF data says. Those that cannot be read are told at the end, with exit code 1.

        freqkd predict runs/basic photos/ --out out/photos
    """
    check_exist([source], "a run folder or a model folder")
    from freqkd_cli.errors import DataBroken
    from freqkd_cli.report.progress_bars import progress
    from freqkd_cli.score.label_images import Options, predict

    found = predict(
        source,
        images,
        Options(out, alpha, labels_only, overwrite, device),
        progress(verbose - quiet),
    )
    print_result(found, as_json, _table)
    if found["unreadable"]:
        number, total = len(found["unreadable"]), found["images"] + len(found["unreadable"])
        lines = "\n".join(f"  {row['image']}: {row['why']}" for row in found["unreadable"])
        others = "; the others are done" if found["images"] else ""
        raise DataBroken(f"{number} of {total} pictures could not be read{others}\n{lines}")


def _table(found: dict[str, Any]) -> str:
    names = ", ".join(row["name"] for row in found["classes"])
    rows = [
        ("images", str(found["images"])),
        ("out", found["out"]),
        ("legend", found["legend"]),
        ("classes", names),
    ]
    return columns(rows)
