"""A trained model as one file that other programs run: ONNX, or pt2 of torch.export.

Input ``image`` float32 ``[B, 3, H, W]``, RGB in [0, 1], any batch and any size, or one fixed size;
the normalisation is inside. Output ``logits`` at the model's own stride, at the image's size with
``upsample``; ``labels`` (int64 classes) with ``argmax``; ``probabilities`` with the head of that
name. Class names and colors are metadata of the file. It is checked before it gets its name.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from freqkd_cli.build.exported_model import onnx_call, onnx_session
from freqkd_cli.build.file_facts import FACTS_IN_PT2
from freqkd_cli.errors import UsageError
from freqkd_cli.export.export_form import ExportForm, file_metadata, form_of
from freqkd_cli.export.latency_rows import Form, bfloat16_form, latency_rows
from freqkd_cli.export.onnx_graph import require_opset, write_onnx
from freqkd_cli.export.parity import SIZES, Parity, compare, probe_image, require_finite
from freqkd_cli.export.quiet import quiet_exporter
from freqkd_cli.export.target import folder_beside
from freqkd_cli.runtime.files import naming
from freqkd_cli.runtime.latency import threads

OTHERWISE = {"onnx": "--format pt2, or another --opset", "pt2": "--format onnx or safetensors"}
"""What to try where one kind is impossible."""


@dataclass(frozen=True)
class ExportOptions:
    """The form of the exported model, and how it is checked and timed.

    Attributes:
        upsample: logits at the image's size (bilinear, align_corners False, as in the evaluation).
        argmax: class numbers instead of logits.
        probabilities: softmax over the classes instead of logits.
        colors: RGB of each class in 0..255, for the file's metadata.
        conversion: ``bits``, ``percentile`` and ``bands`` of the run's images, for the file's
            metadata; None = unknown.
        opset: ONNX operator set; the exporter's default where it is None.
        fixed: the only (height, width) that the graph accepts; None = any.
        sizes: (batch, height, width) of each check.
        own_sizes: (height, width) of the rows of the latency table where none are asked for. The
            first is that of a graph of one size that is not ``fixed``.
        latency_sizes: (height, width) of the rows that are asked for.
        latency_runs: timed runs per row, whose median is reported; 0 = no table.
        latency_threads: numbers of threads of the table, which then has bfloat16 where the CPU has
            it; none = torch's own number.

    Raises:
        UsageError: an operator set that does not exist, or a size without pixels.
    """

    upsample: bool = False
    argmax: bool = False
    probabilities: bool = False
    colors: Sequence[Sequence[int]] = ()
    conversion: Mapping[str, Any] | None = None
    opset: int | None = None
    fixed: tuple[int, int] | None = None
    sizes: Sequence[tuple[int, int, int]] = SIZES
    own_sizes: Sequence[tuple[int, int]] = ((192, 256),)
    latency_sizes: Sequence[tuple[int, int]] = ()
    latency_runs: int = 0
    latency_threads: Sequence[int] = ()

    def __post_init__(self) -> None:
        timed = [("latency-size", size) for size in self.latency_sizes]
        for key, size in [("size", self.fixed), *timed]:
            if size and min(size) < 1:
                raise UsageError(
                    "an image has at least one pixel",
                    got="--{} {},{}".format(key, *size),
                    need="height and width in pixels",
                    tip=f"--{key} 192,256",
                    key=key,
                )
        if self.opset is not None:
            require_opset(self.opset)

    @property
    def head(self) -> str:
        """The name of the output's form; ``labels`` are those at the model's own stride."""
        if self.argmax:
            return "argmax" if self.upsample else "labels"
        if self.probabilities:
            return "probabilities"
        return "upsampled" if self.upsample else "logits"

    def at(self, size: tuple[int, int]) -> ExportOptions:
        """Return the options of a graph of one (height, width), checked and timed at that size.

        Raises:
            UsageError: other sizes are to be timed.
        """
        others = [other for other in self.latency_sizes if other != size]
        if others:
            raise UsageError(
                "a graph of one size cannot be timed at another",
                got="--latency-size {},{}".format(*others[0]),
                need="the size of the graph, {},{}".format(*size),
                tip="leave out --latency-size, or write a file for it: --size {},{}".format(
                    *others[0]
                ),
                key="latency-size",
            )
        sizes = [(batch, *size) for batch in (1, 2, 3)]
        return replace(self, fixed=size, sizes=sizes, own_sizes=(size,))

    @property
    def timed_sizes(self) -> Sequence[tuple[int, int]]:
        """(height, width) of the rows of the latency table."""
        return self.latency_sizes or self.own_sizes


def export_file(
    model: nn.Module, out: Path, kind: Literal["onnx", "pt2"], options: ExportOptions | None = None
) -> dict[str, Any]:
    """Write ``model`` to ``out``, after a check against the model at every size and the timing.

    A model of ``one_size`` gets the first of ``options.own_sizes`` where no size is fixed.

    Returns:
        The result's JSON: file, format, bytes, max_abs_difference, relative_difference,
        argmax_agreement, sizes, output, head, opset (None: not ONNX), size (None: any), latency_ms,
        device, threads.

    Raises:
        CheckFailed: a weight is not finite, or the exported model gives other results; nothing is
            written.
        FreqKDError: the exporter cannot express the model, or ``out`` cannot be written.
        UsageError: a graph of one size is to be timed at another.
    """
    options = options or ExportOptions()
    if options.fixed is None and getattr(model, "one_size", False):
        options = options.at(options.own_sizes[0])
    require_finite(model)
    form = form_of(model.float().cpu(), options)
    metadata = file_metadata(form, options)
    with folder_beside(out) as folder, naming(out), torch.inference_mode(False):
        unchecked = folder / out.name
        program, opset = _program(form, kind, options.fixed), None
        calls: dict[str, Callable[[Tensor], Tensor]] = {"torch": form}
        if kind == "onnx":
            with quiet_exporter(
                "torch can make a graph of this model, but not write it as onnx", OTHERWISE["onnx"]
            ):
                opset = write_onnx(program, unchecked, form.output_name, metadata, options.opset)
                read = calls["onnxruntime"] = onnx_call(onnx_session(unchecked, threads()))
            calls["pt2"] = program.module()
        else:
            _write_pt2(program, unchecked, metadata)
            read = calls["pt2"] = torch.export.load(unchecked).module()
        parity = compare(form, read, options.sizes, OTHERWISE[kind])
        parity.require(f"the {kind} file")
        latency = _latency(form, calls, unchecked, options)
        size = synced(unchecked)
        os.replace(unchecked, out)
    return (
        result(out, kind, size, parity)
        | {"output": form.output_name, "head": options.head, "opset": opset}
        | {"size": options.fixed and list(options.fixed)}
        | latency
    )


def _latency(
    form: ExportForm,
    calls: Mapping[str, Callable[[Tensor], Tensor]],
    file: Path,
    options: ExportOptions,
) -> dict[str, Any]:
    """Return the latency table; a session of onnxruntime is made for each number of threads."""
    forms: dict[str, Form] = {name: lambda count, call=call: call for name, call in calls.items()}
    if options.latency_threads:
        forms |= bfloat16_form(form)
        if "onnxruntime" in forms:
            forms["onnxruntime"] = lambda count: onnx_call(onnx_session(file, count))
    return latency_rows(forms, options.timed_sizes, options.latency_runs, options.latency_threads)


def synced(path: Path) -> int:
    """Flush a file to the disk and return its bytes."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path.stat().st_size


def result(out: Path, kind: str, size: int, parity: Parity) -> dict[str, Any]:
    """Return the JSON keys that all kinds of export share."""
    return {
        "file": str(out),
        "format": kind,
        "bytes": size,
        "max_abs_difference": parity.max_abs_difference,
        "relative_difference": parity.relative_difference,
        "argmax_agreement": parity.argmax_agreement,
        "sizes": [list(size) for size in parity.sizes],
    }


def _program(
    form: ExportForm, kind: str, fixed: tuple[int, int] | None
) -> torch.export.ExportedProgram:
    """Return the graph of both kinds of file; batch, height and width are free, or the batch."""
    free = dict.fromkeys((0,) if fixed else (0, 2, 3), torch.export.Dim.DYNAMIC)
    image = probe_image(2, *(fixed or (192, 256)))
    what = f"torch cannot write this model as {kind}"
    with (
        quiet_exporter(what, "--format safetensors, which needs no graph"),
        torch.no_grad(),
    ):
        return torch.export.export(form, (image,), dynamic_shapes={"image": free}, strict=False)


def _write_pt2(
    program: torch.export.ExportedProgram, path: Path, metadata: Mapping[str, str]
) -> None:
    # Through memory, because on a full disk torch raises a RuntimeError or ends the process.
    content = io.BytesIO()
    with quiet_exporter("torch cannot write this model as pt2", OTHERWISE["pt2"]):
        torch.export.save(program, content, extra_files={FACTS_IN_PT2: json.dumps(metadata)})
    path.write_bytes(content.getbuffer())
