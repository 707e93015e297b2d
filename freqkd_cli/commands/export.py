"""``freqkd export``: a trained student as a file or folder that other programs run."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqkd_cli.commands._early import check_exist, check_recipe
from freqkd_cli.commands._export_table import export_table
from freqkd_cli.commands._exporting import (
    Argmax,
    Calibration,
    CalibrationImages,
    Format,
    Head,
    Int8,
    LatencyRuns,
    LatencySizes,
    MaxDrop,
    Mixed,
    ModelFolder,
    NoLatency,
    Opset,
    Public,
    Push,
    RecipeOption,
    Size,
    Threads,
    Upsample,
    parse_head,
    parse_size,
    parse_threads,
)
from freqkd_cli.commands._options import DataRoot, Json, Limit, Out, Overwrite, Quiet, Verbose
from freqkd_cli.commands._output import print_result
from freqkd_cli.errors import UsageError

if TYPE_CHECKING:
    from freqkd_cli.export.graph_file import ExportOptions
    from freqkd_cli.export.int8_images import Int8Images
    from freqkd_cli.export.int8_trial import Int8Options
    from freqkd_cli.runtime.progress import Progress

log = logging.getLogger(__name__)


def run(
    source: ModelFolder,
    kind: Format = "onnx",
    out: Out = None,
    head: Head = "logits",
    upsample: Upsample = False,
    argmax: Argmax = False,
    opset: Opset = None,
    size: Size = None,
    latency: LatencyRuns = 5,
    latency_size: LatencySizes = None,
    threads: Threads = None,
    int8: Int8 = False,
    calibration: Calibration = None,
    calibration_images: CalibrationImages = None,
    max_drop: MaxDrop = None,
    mixed: Mixed = False,
    recipe: RecipeOption = None,
    data_root: DataRoot = None,
    limit: Limit = None,
    push: Push = None,
    public: Public = False,
    no_latency: NoLatency = False,
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

    With --int8 the ONNX file has int8 weights and activations. It and the float32 file are scored
    on the validation split of the recipe, or on its held-out images (data.hold_out). It is written
    only if it loses at most --max-drop points of mIoU. A run that was trained with train.quantize
    brings its own ranges.

    By default the export is written beside the run's weights: model.onnx, model.int8.onnx,
    model.pt2, or the folder export. A file gets a model card beside it, NAME.md. freqkd eval and
    freqkd predict run these files.

        freqkd export runs/a --format onnx --upsample
        freqkd export runs/a --format safetensors --push me/street-student
    """
    check_exist([source], "a run folder or a model folder")
    check_recipe(recipe)
    from freqkd_cli.export.card import card_path
    from freqkd_cli.export.deploy import own_sizes
    from freqkd_cli.export.graph_file import ExportOptions
    from freqkd_cli.export.hub_upload import check_push, upload
    from freqkd_cli.export.int8_images import open_images
    from freqkd_cli.export.int8_trial import Int8Options
    from freqkd_cli.export.target import DEFAULT, check_target
    from freqkd_cli.report.progress_bars import progress

    options = ExportOptions(
        **parse_head(head, upsample, argmax),
        opset=opset,
        own_sizes=own_sizes(source),
        latency_sizes=tuple(map(parse_size, latency_size or ())),
        latency_runs=0 if no_latency else latency,
        latency_threads=parse_threads(threads),
    )
    options = options.at(parse_size(size)) if size else options
    outputs = {"head": head != "logits", "upsample": upsample, "argmax": argmax}
    _refuse_changes(kind, {"int8": int8, **outputs, "size": size, "opset": opset})
    of_int8 = {"calibration": calibration, "calibration-images": calibration_images}
    of_int8 |= {"max-drop": max_drop, "mixed": mixed or None, "recipe": recipe}
    _refuse_without_int8(int8, of_int8 | {"data-root": data_root, "limit": limit})
    target = out or source / DEFAULT["int8" if int8 else kind]
    check_target(target, kind, source, overwrite=overwrite)
    check_push(push, public)
    if kind != "safetensors":
        check_target(card_path(target), kind, source, overwrite=overwrite)
    images = open_images(source, recipe, data_root, limit or 0) if int8 else None
    given = {"calibration": calibration, "images": calibration_images, "max_drop": max_drop}
    given = {name: value for name, value in given.items() if value is not None}
    how = Int8Options(**given, mixed=mixed)
    result = _exported(source, target, kind, options, how, images, progress(verbose - quiet))
    if push:
        result |= {"pushed": upload(target, push, public=public)}
    print_result(result, as_json, export_table)
    log.info("Next: %s", _next(kind, target, result))


def _exported(
    source: Path,
    target: Path,
    kind: str,
    options: ExportOptions,
    how: Int8Options,
    images: Int8Images | None,
    shown: Progress,
) -> dict[str, Any]:
    """Write the export, in int8 where there are ``images``, and return the result's JSON."""
    from freqkd_cli.build.saved import load_model
    from freqkd_cli.export.card import write_card
    from freqkd_cli.export.deploy import export_folder, model_name
    from freqkd_cli.export.graph_file import export_file
    from freqkd_cli.export.int8_file import export_int8
    from freqkd_cli.score.input_conversion import conversion_keys
    from freqkd_cli.score.predict_images import class_colors

    model = load_model(source)
    log.info("writing %s and checking it", target)
    if kind == "safetensors":
        return export_folder(model, model_name(source), target, run=source, options=options)
    options = replace(
        options, colors=class_colors(source, model), conversion=conversion_keys(source)
    )
    if images:
        result = export_int8(model, target, options, how, images, shown)
    else:
        result = export_file(model, target, kind, options)
    return result | {"card": str(write_card(model, source, target, result))}


def _refuse_changes(kind: str, options: Mapping[str, Any]) -> None:
    """Refuse options that the format cannot hold.

    Args:
        options: those of a graph by name; one that was not given is false.

    Raises:
        UsageError: a head, size, opset or int8 without a graph, or opset or int8 without ONNX.
    """
    given = [name for name, value in options.items() if value]
    if given and kind == "safetensors" or {"opset", "int8"} & {*given} and kind == "pt2":
        name = "int8" if options["int8"] else given[-1]
        raise UsageError(
            f"--{name} has no effect on --format {kind}", tip="--format onnx", key=name
        )


def _refuse_without_int8(int8: bool, values: dict[str, Any]) -> None:
    """Refuse options that only ``--int8`` reads.

    Raises:
        UsageError: one of them was given without it.
    """
    given = [name for name, value in values.items() if value is not None]
    if given and not int8:
        raise UsageError(
            f"--{given[0]} has no effect without --int8", tip="add --int8", key=given[0]
        )


def _next(kind: str, target: Path, result: dict[str, Any]) -> str:
    if kind == "safetensors":
        return f"freqkd_cli.load({str(target)!r}) in Python; {target / 'README.md'} has examples"
    if kind == "pt2":
        return f"torch.export.load({str(target)!r}).module() in Python"
    python = f"onnxruntime.InferenceSession({str(target)!r}) in Python"
    if "int8" in result:
        python = f"onnxruntime in Python with the option that {result['card']} shows"
    return f"freqkd predict {shlex.quote(str(target))} PHOTOS --out out/photos, or {python}"
