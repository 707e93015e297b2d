"""Options of ``freqkd export``, and the reading of their words."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from freqkd_cli.errors import UsageError

ModelFolder = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="A run folder, or a folder with config.json and model.safetensors."
    ),
]
Format = Annotated[
    Literal["onnx", "pt2", "safetensors"], typer.Option("--format", help="Format to write.")
]
Head = Annotated[
    Literal["logits", "upsampled", "argmax", "probabilities"],
    typer.Option(
        "--head",
        help="Output of the graph: logits at the model's stride; or logits, class numbers or "
        "softmax probabilities at the image's size.",
    ),
]
Upsample = Annotated[bool, typer.Option("--upsample", help="The same as --head upsampled.")]
Argmax = Annotated[
    bool,
    typer.Option(
        "--argmax",
        help="Give class numbers at the model's stride; with --upsample, as --head argmax.",
    ),
]
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
        help="Number of timed runs per row, whose median is reported; 0 measures no times.",
    ),
]
Push = Annotated[
    str | None,
    typer.Option(
        "--push",
        metavar="OWNER/NAME",
        help="Upload the export to a repository of the Hugging Face hub; a new one is private.",
    ),
]
Public = Annotated[bool, typer.Option("--public", help="Make a new repository of --push public.")]
NoLatency = Annotated[bool, typer.Option("--no-latency", hidden=True)]
LatencySizes = Annotated[
    list[str] | None,
    typer.Option(
        "--latency-size",
        metavar="H,W",
        help="Image size to time (repeatable); by default that of the recipe and one more, or that "
        "of a graph of one size.",
        show_default=False,
    ),
]
Threads = Annotated[
    str | None,
    typer.Option(
        "--threads",
        metavar="N,N",
        help="Numbers of threads to time, such as 1,2,4, with bfloat16 where the CPU has it.",
        show_default=False,
    ),
]
Int8 = Annotated[
    bool,
    typer.Option("--int8", help="Write ONNX in int8, calibrated on training images and scored."),
]
Calibration = Annotated[
    Literal["minmax", "percentile", "entropy"] | None,
    typer.Option(
        "--calibration",
        help="How --int8 chooses the range of each activation; the default is minmax. The others "
        "take about ten times as long.",
    ),
]
CalibrationImages = Annotated[
    int | None,
    typer.Option(
        "--calibration-images",
        min=1,
        metavar="N",
        help="Training images that --int8 runs; the default is 32.",
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        "--max-drop",
        min=0,
        metavar="POINTS",
        help="Largest accepted loss of mIoU by --int8, in points (exit code 3 if it is more); the "
        "default is 1.",
    ),
]
Mixed = Annotated[
    bool,
    typer.Option(
        "--mixed", help="Keep the layers that hurt --int8 most in float32 until the loss is met."
    ),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="RECIPE",
        help="Recipe that defines the data of --int8.",
        show_default=False,
    ),
]


def export_command(folder: Path) -> str:
    """Return the command that exports a model, quoted for a shell.

    In int8 where ``train.quantize`` trained it so.
    """
    from freqkd_cli.runtime.json_file import object_or_none

    config = object_or_none(folder / "config.json") or {}
    form = ["--int8"] if "quantization" in config else ["--format", "onnx"]
    return shlex.join(["freqkd", "export", str(folder), *form])


def parse_size(text: str) -> tuple[int, int]:
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


def parse_threads(text: str | None) -> tuple[int, ...]:
    """Return the numbers of ``--threads``; none where it was not given.

    Raises:
        UsageError: they are not whole numbers above 0.
    """
    if text is None:
        return ()
    if not re.fullmatch(r"\s*[1-9]\d{0,3}(\s*,\s*[1-9]\d{0,3})*\s*", text):
        raise UsageError(
            "--threads cannot be read",
            got=text or "nothing",
            need="numbers, such as 1,2,4",
            key="threads",
        )
    return tuple(dict.fromkeys(int(part) for part in text.split(",")))


def parse_head(head: str, upsample: bool, argmax: bool) -> dict[str, bool]:
    """Return the arguments of ``ExportOptions`` for ``--head``, ``--upsample`` and ``--argmax``.

    Raises:
        UsageError: two options name different outputs.
    """
    if head != "logits" and (argmax or upsample and head != "upsampled"):
        raise UsageError(
            "two options name the output",
            got=f"--head {head} and {'--argmax' if argmax else '--upsample'}",
            need="--head alone",
            key="head",
        )
    return {
        "upsample": upsample or head != "logits",
        "argmax": argmax or head == "argmax",
        "probabilities": head == "probabilities",
    }
