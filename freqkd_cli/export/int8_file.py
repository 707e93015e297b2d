"""A trained model as an int8 ONNX file, which is scored beside its float32 file before it is kept.

Ranges are calibrated on whole training images, or are those that ``train.quantize`` trained. Both
files are scored on the validation split, or on held-out images.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from freqkd_cli.build.exported_model import load_exported, onnx_call, onnx_session
from freqkd_cli.export.export_form import form_of
from freqkd_cli.export.graph_file import ExportOptions, export_file, synced
from freqkd_cli.export.int8_trial import Int8Options, Int8Trial, Scored
from freqkd_cli.export.latency_rows import Form, bfloat16_form, latency_rows
from freqkd_cli.export.parity import compare
from freqkd_cli.export.quantized_graph import layers
from freqkd_cli.export.target import folder_beside
from freqkd_cli.runtime.files import naming

if TYPE_CHECKING:
    from torch import nn

    from freqkd_cli.export.int8_images import Int8Images
    from freqkd_cli.runtime.progress import Progress


def export_int8(
    model: nn.Module,
    out: Path,
    options: ExportOptions,
    int8: Int8Options,
    images: Int8Images,
    progress: Progress,
) -> dict[str, Any]:
    """Write ``model`` as an int8 ONNX file that is nearly as good as its float32 file.

    Args:
        images: those to calibrate and to score on.

    Returns:
        The result of :func:`freqkd_cli.export.graph_file.export_file`, whose differences are those
        of the int8 file, and ``int8``: how it was made and scored.

    Raises:
        CheckFailed: it loses more than ``int8.max_drop``; nothing is written.
    """
    with folder_beside(out) as folder, naming(out):
        trial = Int8Trial(folder, images.scored, int8, progress)
        document = export_file(model, trial.float_file, "onnx", replace(options, latency_runs=0))
        ranges = getattr(model, "quantization", None)
        trial.prepare(images.train, ranges)
        scored = trial.accepted()
        document |= _compared(model, trial, options)
        document |= {"file": str(out), "bytes": synced(trial.int8_file)}
        document["int8"] = _facts(trial, scored, len(images.train), ranges is not None)
        os.replace(trial.int8_file, out)
    return document


def _compared(model: nn.Module, trial: Int8Trial, options: ExportOptions) -> dict[str, Any]:
    """Return the differences from the trained model on probe images, and the latency table."""
    form = form_of(model, options)
    size = load_exported(trial.float_file).facts.size
    options = options if options.fixed or not size else options.at(size)
    files = {"onnxruntime": trial.float_file, "onnxruntime int8": trial.int8_file}
    forms: dict[str, Form] = {"torch": lambda count: form, **bfloat16_form(form)}
    for name, path in files.items():
        forms[name] = lambda count, path=path: onnx_call(onnx_session(path, count))
    parity = compare(form, forms["onnxruntime int8"](1), options.sizes)
    return {
        "max_abs_difference": parity.max_abs_difference,
        "relative_difference": parity.relative_difference,
        "argmax_agreement": parity.argmax_agreement,
    } | latency_rows(forms, options.timed_sizes, options.latency_runs, options.latency_threads)


def _facts(trial: Int8Trial, scored: Scored, images: int, trained: bool) -> dict[str, Any]:
    graph = layers(onnx.load(trial.float_file))
    return {
        "calibration": trial.options.calibration,
        "calibration_images": min(trial.options.images, images),
        "trained_ranges": trained,
        "layers": len(graph) - len(scored.in_float),
        "float_layers": [layer.name for layer in scored.in_float],
        "float_bytes": trial.float_file.stat().st_size,
        "float_miou": trial.baseline.miou,
        "miou": scored.miou,
        "drop": trial.drop(scored),
        "agreement": scored.agreement,
        "images": trial.split.images,
        "scored_on": trial.split.split,
    }
