"""``freqkd export``: a trained student as a file or folder that other programs run, checked against the original."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from freqkd_cli.commands._early import check_exist
from freqkd_cli.commands._options import Json, Out, Overwrite, Quiet, Verbose
from freqkd_cli.commands._output import check_parents, print_result
from freqkd_cli.errors import UsageError

if TYPE_CHECKING:
    from freqkd_cli.export.graph_file import Options


def run(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="A run's folder, or any folder with config.json and model.safetensors.",
        ),
    ],
    kind: Annotated[
        Literal["onnx", "pt2", "safetensors"], typer.Option("--format", help="What is written.")
    ] = "onnx",
    out: Out = None,
    upsample: Annotated[
        bool, typer.Option("--upsample", help="Answer at the image's size.")
    ] = False,
    argmax: Annotated[
        bool, typer.Option("--argmax", help="Answer class numbers in place of logits.")
    ] = False,
    opset: Annotated[
        int | None, typer.Option("--opset", min=18, metavar="N", help="ONNX operator set.")
    ] = None,
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(
            "--size",
            metavar="H W",
            help="The only image size that the graph takes; any by default.",
        ),
    ] = None,
    latency: Annotated[
        int,
        typer.Option(
            "--latency", min=0, metavar="N", help="Images that each time is the median of."
        ),
    ] = 5,
    no_latency: Annotated[bool, typer.Option("--no-latency", help="Measure no times.")] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = 0,
) -> None:
    """Export a trained student to ONNX, pt2 or safetensors.

    pt2 is torch.export's; safetensors is a folder with a model card. Batch and size stay free; a VMamba has one size, its recipe's or
    that of --size. The file gets its name only after it has answered like the model at five sizes, or at three batches of the one (exit
    code 3 otherwise). Then torch and the exported forms are timed on the CPU, by turns, at the recipe's size and one more.
    Beside the run's weights unless --out says where: model.onnx, model.pt2, or the folder export.

        freqkd export runs/a --format onnx --upsample
    """
    check_exist([source], "a run folder or a model folder")
    from freqkd_cli.build.saved import load_model
    from freqkd_cli.export.deploy import export_folder, latency_sizes, model_name
    from freqkd_cli.export.graph_file import Options, export_file
    from freqkd_cli.report.progress_bars import progress

    listener = progress(verbose - quiet)
    runs = 0 if no_latency else latency
    options = Options(
        upsample=upsample,
        argmax=argmax,
        opset=opset,
        latency_sizes=latency_sizes(source),
        latency_runs=runs,
    )
    options = options.at(size) if size else options
    _refuse_changes(kind, options)
    target = (
        out or source / {"onnx": "model.onnx", "pt2": "model.pt2", "safetensors": "export"}[kind]
    )
    _refuse_existing(target, kind, overwrite)
    model = load_model(source)
    listener.note(f"writing {target} and checking it")
    if kind == "safetensors":
        result = export_folder(model, model_name(source), target, run=source, options=options)
    else:
        result = export_file(model, target, kind, options)
    print_result(result, as_json, _table)


def _refuse_existing(out: Path, kind: str, overwrite: bool) -> None:
    """Raise where ``out`` is in the way.

    Raises:
        UsageError: it exists and ``overwrite`` is not set, it is a folder where a file is to be written, or the other way round, or it
            would lie below a file.
    """
    if out.exists() and out.is_dir() != (kind == "safetensors"):
        need = "a folder" if kind == "safetensors" else "a file"
        raise UsageError(
            f"{out} is {'a folder' if out.is_dir() else 'a file'}",
            need=f"{need} for --format {kind}",
            tip="another --out",
        )
    check_parents("--out", out)
    if out.exists() and not overwrite:
        raise UsageError(f"{out} is there already", tip="--overwrite, or another --out")


def _refuse_changes(kind: str, options: Options) -> None:
    """Refuse options that a folder of weights cannot hold.

    Raises:
        UsageError: upsample, argmax, opset or a size where there is no graph to put them in.
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
            f"--{given[-1]} changes a graph, and --format {kind} has none to change",
            tip="--format onnx",
        )


def _table(result: dict[str, Any]) -> str:
    from freqkd_cli.report.tables import render, size

    relative = result["relative_difference"]
    difference = (
        "labels only"
        if relative is None
        else f"{result['max_abs_difference']:.1e}, {relative:.1e} of the largest logit"
    )
    threads = f"{result['threads']} thread{'s' * (result['threads'] != 1)}"
    sizes = ", ".join("x".join(map(str, checked)) for checked in result["sizes"])
    taken = (
        "any size"
        if result.get("size") is None
        else f"{'x'.join(map(str, result['size']))} alone; another with --size H W"
    )
    rows = [
        ["written", f"{result['file']} ({size(result['bytes'])})"],
        ["takes images of", taken],
        ["largest difference", difference],
        ["same class", f"{100 * result['argmax_agreement']:.4f} % of the pixels"],
        ["checked at", sizes],
    ]
    for row in result["latency_ms"]:
        times = ", ".join(f"{name} {took:.1f}" for name, took in row.items() if name != "size")
        height, width = row["size"][1:]
        rows.append(
            [
                f"ms an image of {height}x{width}",
                f"{times} ({result['device']}, {threads}, median of {result['latency_runs']})",
            ]
        )
    return render(["", ""], rows).lstrip()
