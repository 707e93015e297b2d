"""``freqkd export``: a trained student as a file or folder that other programs run."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from freqkd_cli.commands._early import check_exist
from freqkd_cli.commands._options import Json, Out, Overwrite, Quiet, Verbose
from freqkd_cli.commands._output import print_result
from freqkd_cli.errors import UsageError

if TYPE_CHECKING:
    from freqkd_cli.export.graph_file import ExportOptions

log = logging.getLogger(__name__)

ModelFolder = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="A run folder, or a folder with config.json and model.safetensors."
    ),
]
Format = Annotated[
    Literal["onnx", "pt2", "safetensors"], typer.Option("--format", help="Format to write.")
]
Upsample = Annotated[bool, typer.Option("--upsample", help="Give logits at the image's size.")]
Argmax = Annotated[bool, typer.Option("--argmax", help="Give class numbers instead of logits.")]
Opset = Annotated[
    int | None,
    typer.Option(
        "--opset",
        min=13,
        metavar="N",
        help="ONNX operator set, from 13 on; the exporter's own by default.",
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="H,W",
        help="The only image size in pixels that the graph accepts, such as 192,256; "
        "any size by default.",
    ),
]
LatencyRuns = Annotated[
    int,
    typer.Option(
        "--latency",
        min=0,
        metavar="N",
        help="Number of timed runs per size, whose median is reported; 0 measures no times.",
    ),
]


def run(
    source: ModelFolder,
    kind: Format = "onnx",
    out: Out = None,
    upsample: Upsample = False,
    argmax: Argmax = False,
    opset: Opset = None,
    size: Size = None,
    latency: LatencyRuns = 5,
    no_latency: Annotated[bool, typer.Option("--no-latency", hidden=True)] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = 0,
) -> None:
    """Export a trained student to ONNX, pt2 or safetensors.

    pt2 is the format of torch.export. safetensors is a folder with a model card. Batch and image
    size are free; a VMamba has one size, that of --size or of its recipe.

    The export is checked against the trained model before it gets its name: at five sizes, or at
    three batches of the one size (exit code 3 if they differ). Then torch and the exported forms
    are timed on the CPU, at the recipe's size and one more.

    torch writes ONNX operator sets from 18 on. For --opset 13 to 17 the graph is rewritten, and the
    rewritten file is checked. All students have been exported down to 13.

    By default the export is written beside the run's weights: model.onnx, model.pt2, or the folder
    export.

        freqkd export runs/a --format onnx --upsample
    """
    check_exist([source], "a run folder or a model folder")
    from freqkd_cli.build.saved import load_model
    from freqkd_cli.export.deploy import export_folder, latency_sizes, model_name
    from freqkd_cli.export.graph_file import ExportOptions, export_file
    from freqkd_cli.export.target import DEFAULT, check_target

    options = ExportOptions(
        upsample=upsample,
        argmax=argmax,
        opset=opset,
        latency_sizes=latency_sizes(source),
        latency_runs=0 if no_latency else latency,
    )
    options = options.at(_size(size)) if size else options
    _refuse_changes(kind, options)
    target = out or source / DEFAULT[kind]
    check_target(target, kind, source, overwrite=overwrite)
    model = load_model(source)
    log.info("writing %s and checking it", target)
    if kind == "safetensors":
        result = export_folder(model, model_name(source), target, run=source, options=options)
    else:
        result = export_file(model, target, kind, options)
    print_result(result, as_json, _table)
    log.info("Next: %s", _next(kind, target))


def _size(text: str) -> tuple[int, int]:
    """Return (height, width) of ``H,W``, ``HxW`` or ``"H W"``.

    Raises:
        UsageError: the text is not two whole numbers.
    """
    match = re.fullmatch(r"\s*(-?\d{1,6})\s*[,x ]\s*(-?\d{1,6})\s*", text)
    if not match:
        raise UsageError(
            "--size is not a height and a width",
            got=f"--size {text}",
            need="H,W in pixels, such as 192,256",
            key="size",
        )
    return int(match[1]), int(match[2])


def _refuse_changes(kind: str, options: ExportOptions) -> None:
    """Refuse options that the format cannot hold.

    Raises:
        UsageError: upsample, argmax, size or opset without a graph, or opset without ONNX.
    """
    changes = {
        "upsample": options.upsample,
        "argmax": options.argmax,
        "size": options.fixed,
        "opset": options.opset,
    }
    given = [name for name, value in changes.items() if value]
    if given and kind == "safetensors" or options.opset and kind == "pt2":
        raise UsageError(
            f"--{given[-1]} has no effect on --format {kind}", tip="--format onnx", key=given[-1]
        )


def _next(kind: str, target: Path) -> str:
    if kind == "safetensors":
        return f"freqkd_cli.load({str(target)!r}) in Python; {target / 'README.md'} has examples"
    if kind == "pt2":
        return f"torch.export.load({str(target)!r}).module() in Python"
    return f"onnxruntime.InferenceSession({str(target)!r}) in Python"


def _table(result: dict[str, Any]) -> str:
    from freqkd_cli.report.tables import render, size

    relative = result["relative_difference"]
    difference = "labels only"
    if relative is not None:
        difference = f"{result['max_abs_difference']:.1e}, {relative:.1e} of the largest logit"
    accepted = "any size"
    if result.get("size") is not None:
        accepted = f"{'x'.join(map(str, result['size']))} only; --size H,W sets another"
    opset = result.get("opset")
    rows = [
        ["written", f"{result['file']} ({size(result['bytes'])})"],
        *([["operator set", str(opset)]] if opset is not None else []),
        ["image size", accepted],
        ["largest difference", difference],
        ["same class", f"{100 * result['argmax_agreement']:.4f} % of the pixels"],
        ["checked at", ", ".join("x".join(map(str, checked)) for checked in result["sizes"])],
    ]
    threads = f"{result['threads']} thread{'s' * (result['threads'] != 1)}"
    for row in result["latency_ms"]:
        height, width = row["size"][1:]
        times = ", ".join(f"{name} {ms:.1f}" for name, ms in row.items() if name != "size")
        where = f"{result['device']}, {threads}, median of {result['latency_runs']}"
        rows.append([f"ms per image of {height}x{width}", f"{times} ({where})"])
    return render(["", ""], rows).lstrip()
