"""``freqkd predict``: label images and videos, as label PNGs and color overlays."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from freqkd_cli.commands._early import check_exist
from freqkd_cli.commands._exporting import export_command
from freqkd_cli.commands._options import Device, Json, Limit, Overwrite, Quiet, Verbose
from freqkd_cli.commands._output import columns, print_result
from freqkd_cli.commands._scoring import BatchSize, Flip, Scales, Slide, Stride

log = logging.getLogger(__name__)


Source = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE",
        help="A run, the folder of a model or a SegFormer, or an exported .onnx or .pt2 file.",
    ),
]
Images = Annotated[
    list[Path],
    typer.Argument(
        metavar="IMAGES", help="Images, videos, or folders of them with their subfolders."
    ),
]
Out = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Folder of the PNGs and legend.json.")
]
Alpha = Annotated[
    float,
    typer.Option(
        "--alpha", min=0, max=1, metavar="SHARE", help="Share of the color in an overlay."
    ),
]
Legend = Annotated[
    bool, typer.Option("--legend/--no-legend", help="List the classes below an overlay.")
]
Bits = Annotated[
    int | None,
    typer.Option(
        "--bits",
        min=8,
        max=16,
        metavar="N",
        help="Bits used in images of more than 8 bits a channel: value / (2^N - 1). "
        "By default data.bits of the run.",
        show_default=False,
    ),
]
Percentile = Annotated[
    str | None,
    typer.Option(
        "--percentile",
        metavar="LOW,HIGH",
        help="Instead of --bits: percentiles of an image that become black and white, "
        "such as 1,99. By default data.percentile of the run.",
        show_default=False,
    ),
]
Bands = Annotated[
    str | None,
    typer.Option(
        "--bands",
        metavar="R,G,B",
        help="Bands that are red, green and blue, from 1, such as 1,2,3. "
        "By default data.bands of the run.",
        show_default=False,
    ),
]


def run(
    source: Source,
    images: Images,
    out: Out,
    alpha: Alpha = 0.5,
    labels_only: Annotated[bool, typer.Option("--labels-only", help="Write no overlays.")] = False,
    legend: Legend = True,
    flip: Flip = False,
    scales: Scales = None,
    slide: Slide = None,
    stride: Stride = None,
    bits: Bits = None,
    percentile: Percentile = None,
    bands: Bands = None,
    batch_size: BatchSize = None,
    limit: Limit = None,
    overwrite: Overwrite = False,
    device: Device = None,
    as_json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = 0,
) -> None:
    """Label images: a label PNG and a color overlay each.

    NAME.png holds class numbers as palette indices. NAME_overlay.png shows them over the image.
    legend.json lists the classes and their colors. Images of a folder keep their path inside it.
    They are turned upright by their EXIF data. A video becomes a folder of label PNGs and
    NAME_overlay.mp4; this needs the extra: pip install 'freqkd[video]'.

    The default is one pass over the whole image. With --flip, --scales or --slide, softmax
    probabilities are averaged, as by freqkd eval.

    Files that cannot be read, or do not fit into memory, are listed at the end, with exit code 1.

        freqkd predict runs/basic photos/ --out out/photos
    """
    check_exist([source], "a run folder, a model folder, or an exported .onnx or .pt2 file")
    import functools

    from freqkd_cli.report.overlay_image import overlay
    from freqkd_cli.report.progress_bars import progress
    from freqkd_cli.score.averaging import parse
    from freqkd_cli.score.input_conversion import ConversionOptions
    from freqkd_cli.score.predict_images import PredictOptions, predict

    draw = None if labels_only else functools.partial(overlay, alpha=alpha, strip=legend)
    options = PredictOptions(
        out=out,
        draw=draw,
        overwrite=overwrite,
        device=device,
        limit=limit or 0,
        batch_size=batch_size,
        averaging=parse(flip, scales, slide, stride),
        conversion=ConversionOptions(bits, percentile, bands),
    )
    result = predict(source, images, options, progress(verbose - quiet))
    print_result(result, as_json, _table)
    if result["unreadable"]:
        raise _not_labelled(result)
    if source.is_dir():
        log.info("Next: %s (for use outside Python)", export_command(source))


def _not_labelled(result: dict[str, Any]) -> Exception:
    """The error that lists the inputs without labels."""
    from freqkd_cli.errors import DataBroken

    rows, labelled = result["unreadable"], result["images"]
    lines = "\n".join(f"  {row['image']}: {row['why']}" for row in rows)
    others = "; the others are labelled" if labelled else ""
    total = labelled + len(rows)
    return DataBroken(f"{len(rows)} of {total} images could not be labelled{others}\n{lines}")


def _table(result: dict[str, Any]) -> str:
    names = ", ".join(row["name"] for row in result["classes"])
    rows = [
        ("images", str(result["images"])),
        ("out", result["out"]),
        ("legend", result["legend"]),
        ("classes", names),
    ]
    if result["test_time"]:
        rows.append(("test time", result["test_time"]["text"]))
    return columns(rows)
