"""A trained model as one file that other programs run: ONNX, or pt2 of torch.export.

Input ``image`` float32 ``[B, 3, H, W]``, RGB in [0, 1], any batch and any size, or one fixed size;
the normalisation is inside. Output ``logits`` at the model's own stride, at the image's size with
``upsample``; ``labels`` (int64 classes) with ``argmax``. The file is checked before it gets its
name.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from freqkd_cli.errors import UsageError
from freqkd_cli.export.onnx_graph import onnx_session, require_opset, write_onnx
from freqkd_cli.export.parity import SIZES, Parity, compare, probe_image, require_finite
from freqkd_cli.export.quiet import quiet_exporter
from freqkd_cli.export.target import folder_beside
from freqkd_cli.runtime.files import naming
from freqkd_cli.runtime.latency import latency_table

RUNTIME = {"onnx": "onnxruntime", "pt2": "pt2"}
"""Name of the program that runs a file of that kind, in the check and in the latency table."""
OTHERWISE = {"onnx": "--format pt2, or another --opset", "pt2": "--format onnx or safetensors"}
"""What to try where one kind is impossible."""


@dataclass(frozen=True)
class ExportOptions:
    """The form of the exported model, and how it is checked and timed.

    Attributes:
        upsample: logits at the image's size (bilinear, align_corners False, as in the evaluation).
        argmax: class numbers instead of logits.
        opset: ONNX operator set; the exporter's default where it is None.
        fixed: the only (height, width) that the graph accepts; None = any.
        sizes: (batch, height, width) of each check.
        latency_sizes: (height, width) of the rows of the latency table.
        latency_runs: timed runs per row, whose median is reported; 0 = no table.

    Raises:
        UsageError: an operator set that does not exist, or a fixed size without pixels.
    """

    upsample: bool = False
    argmax: bool = False
    opset: int | None = None
    fixed: tuple[int, int] | None = None
    sizes: Sequence[tuple[int, int, int]] = SIZES
    latency_sizes: Sequence[tuple[int, int]] = ((192, 256),)
    latency_runs: int = 0

    def __post_init__(self) -> None:
        if self.fixed and min(self.fixed) < 1:
            raise UsageError(
                "an image has at least one pixel",
                got="--size {},{}".format(*self.fixed),
                need="height and width in pixels",
                tip="--size 192,256",
                key="size",
            )
        if self.opset is not None:
            require_opset(self.opset)

    def at(self, size: tuple[int, int]) -> ExportOptions:
        """Return the options of a graph of one (height, width), checked and timed at that size."""
        sizes = [(batch, *size) for batch in (1, 2, 3)]
        return replace(self, fixed=size, sizes=sizes, latency_sizes=(size,))


class ExportForm(nn.Module):
    """The model as a function of one tensor ``[B, 3, H, W]``.

    It returns logits ``[B, K, h, w]``, or labels ``[B, h, w]`` int64 with ``argmax``.
    """

    def __init__(self, model: nn.Module, *, upsample: bool = False, argmax: bool = False) -> None:
        super().__init__()
        self.model, self.upsample, self.argmax = model, upsample, argmax
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        logits = self.model(image)["logits"]
        if self.upsample:
            size = image.shape[-2:]
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return logits.argmax(1) if self.argmax else logits

    @property
    def output_name(self) -> str:
        """The name of the file's output."""
        return "labels" if self.argmax else "logits"


def export_file(
    model: nn.Module, out: Path, kind: Literal["onnx", "pt2"], options: ExportOptions | None = None
) -> dict[str, Any]:
    """Write ``model`` to ``out``, after a check against the model at every size.

    A model of ``one_size`` gets the first of ``options.latency_sizes`` where no size is fixed.

    Returns:
        The result's JSON: file, format, bytes, max_abs_difference, relative_difference,
        argmax_agreement, sizes, output, opset (None: not ONNX), size (None: any), latency_ms,
        device, threads.

    Raises:
        CheckFailed: a weight is not finite, or the exported model gives other results; nothing is
            written.
        FreqKDError: the exporter cannot express the model, or ``out`` cannot be written.
    """
    options = options or ExportOptions()
    if options.fixed is None and getattr(model, "one_size", False):
        options = options.at(options.latency_sizes[0])
    require_finite(model)
    form = ExportForm(model.float().cpu(), upsample=options.upsample, argmax=options.argmax)
    with folder_beside(out) as folder, naming(out), torch.inference_mode(False):
        unchecked = folder / out.name
        program, opset = _program(form, kind, options.fixed), None
        calls: dict[str, Callable[[Tensor], Tensor]] = {"torch": form}
        if kind == "onnx":
            with quiet_exporter(
                "torch can make a graph of this model, but not write it as onnx", OTHERWISE["onnx"]
            ):
                names = getattr(model, "id2label", None)
                opset = write_onnx(program, unchecked, form.output_name, names, options.opset)
                calls["onnxruntime"] = onnx_session(unchecked)
            calls["pt2"] = program.module()
        else:
            _write_pt2(program, unchecked)
            calls["pt2"] = torch.export.load(unchecked).module()
        parity = compare(form, calls[RUNTIME[kind]], options.sizes, OTHERWISE[kind])
        parity.require(f"the {kind} file")
        size = _synced(unchecked)
        os.replace(unchecked, out)
    return (
        result(out, kind, size, parity)
        | {"output": form.output_name, "opset": opset}
        | {"size": options.fixed and list(options.fixed)}
        | latency_table(calls, options.latency_sizes, options.latency_runs)
    )


def _synced(path: Path) -> int:
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


def _write_pt2(program: torch.export.ExportedProgram, path: Path) -> None:
    # Through memory, because on a full disk torch raises a RuntimeError or ends the process.
    content = io.BytesIO()
    with quiet_exporter("torch cannot write this model as pt2", OTHERWISE["pt2"]):
        torch.export.save(program, content)
    path.write_bytes(content.getbuffer())
