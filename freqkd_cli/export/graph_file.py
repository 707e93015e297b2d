"""A trained model as one file that other programs run: ONNX or torch.export's pt2. Checked before it gets its name.

Input ``image`` float32 ``[B, 3, H, W]``, RGB in [0, 1], any batch and any size, or the one size that was asked for; the normalisation is
inside. Output ``logits`` at the model's own stride, at the image's size with ``upsample``; ``labels`` (int64 classes) with ``argmax``.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from freqkd_cli.errors import FreqKDError, UsageError
from freqkd_cli.export.parity import SIZES, Parity, compare, probe_image
from freqkd_cli.export.quiet import exporter_voice
from freqkd_cli.runtime.files import naming
from freqkd_cli.runtime.latency import latency_table, threads

RUNTIME = {"onnx": "onnxruntime", "pt2": "pt2"}
"""What runs a file of that kind, in the check and in the latency table."""
OTHERWISE = {"onnx": "--format pt2, or another --opset", "pt2": "--format onnx or safetensors"}
"""What to try where one kind is impossible."""


@dataclass(frozen=True)
class Options:
    """What the exported file answers.

    Attributes:
        upsample: logits at the image's size (bilinear, align_corners False, as the evaluation does).
        argmax: class numbers in place of logits.
        opset: ONNX operator set; the exporter's own choice where it is None.
        fixed: the only (height, width) that the graph takes; None = any.
        sizes: (batch, height, width) that the check runs.
        latency_sizes: (height, width) of the rows of the latency table.
        latency_runs: images that a time in it is the median of; 0 = no table.

    Raises:
        UsageError: an operator set that nobody has defined, or a fixed size without pixels.
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
            got = "--size {} {}".format(*self.fixed)
            raise UsageError(
                "an image has at least one pixel",
                got=got,
                need="height and width in pixels",
                tip="--size 192 256",
            )
        if self.opset is not None:
            _require_known(self.opset)

    def at(self, size: tuple[int, int]) -> Options:
        """The same for a graph of one (height, width), checked and timed at that."""
        return replace(
            self, fixed=size, sizes=[(batch, *size) for batch in (1, 2, 3)], latency_sizes=(size,)
        )


def _require_known(opset: int) -> None:
    from onnx.defs import onnx_opset_version

    if opset > onnx_opset_version():
        need = f"at most {onnx_opset_version()}"
        raise UsageError(
            "the installed onnx knows no such operator set",
            got=f"--opset {opset}",
            need=need,
            tip="leave it out",
        )


class ExportForm(nn.Module):
    """The model as a function of one tensor: ``[B, 3, H, W]`` -> logits ``[B, K, h, w]``, or labels ``[B, h, w]`` int64."""

    def __init__(self, model: nn.Module, *, upsample: bool = False, argmax: bool = False) -> None:
        super().__init__()
        self.model, self.upsample, self.argmax = model, upsample, argmax
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        logits = self.model(image)["logits"]
        if self.upsample:
            logits = F.interpolate(
                logits, size=image.shape[-2:], mode="bilinear", align_corners=False
            )
        return logits.argmax(1) if self.argmax else logits

    @property
    def output_name(self) -> str:
        return "labels" if self.argmax else "logits"


def export_file(
    model: nn.Module, out: Path, kind: Literal["onnx", "pt2"], options: Options = Options()
) -> dict[str, Any]:  # noqa: B008 - frozen
    """Write ``model`` to ``out``, checked: the file gets its name only after it has answered like the model at every size.

    A model of ``one_size`` gets the first of ``options.latency_sizes`` where no size is fixed.

    Returns:
        The result's JSON: file, format, bytes, max_abs_difference, relative_difference, argmax_agreement, sizes, output, size (None: any),
        latency_ms, device, threads.

    Raises:
        CheckFailed: the exported model answers differently; nothing is left behind.
        FreqKDError: the exporter cannot express the model.
    """
    if options.fixed is None and getattr(model, "one_size", False):
        options = options.at(options.latency_sizes[0])
    form = ExportForm(model.float().cpu(), upsample=options.upsample, argmax=options.argmax)
    out.parent.mkdir(parents=True, exist_ok=True)
    with naming(out), _aside(out) as aside, torch.inference_mode(False):
        program = _program(form, kind, options.fixed)
        calls: dict[str, Callable[[Tensor], Tensor]] = {"torch": form}
        if kind == "onnx":
            _write_onnx(program, form, aside, options)
            calls["onnxruntime"] = _onnx_session(aside)
            calls["pt2"] = program.module()
        else:
            _write_pt2(program, aside)
            calls["pt2"] = torch.export.load(aside).module()
        parity = compare(form, calls[RUNTIME[kind]], options.sizes, OTHERWISE[kind])
        parity.require(f"the {kind} file")
        size = _synced(aside)
        os.replace(aside, out)
    return (
        result(out, kind, size, parity)
        | {"output": form.output_name, "size": options.fixed and list(options.fixed)}
        | latency_table(calls, options.latency_sizes, options.latency_runs)
    )


def _synced(path: Path) -> int:
    """Bytes of a file that is on the disk as a whole."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path.stat().st_size


def result(out: Path, kind: str, size: int, parity: Parity) -> dict[str, Any]:
    """What every kind of export tells of itself."""
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
    """The graph that both kinds of file are made from; batch, height and width are free, or the batch alone."""
    free = dict.fromkeys((0,) if fixed else (0, 2, 3), torch.export.Dim.DYNAMIC)
    with (
        exporter_voice(
            f"torch cannot write this model as {kind}", "--format safetensors, which needs no graph"
        ),
        torch.no_grad(),
    ):
        return torch.export.export(
            form,
            (probe_image(2, *(fixed or (192, 256))),),
            dynamic_shapes={"image": free},
            strict=False,
        )


def _write_onnx(
    program: torch.export.ExportedProgram, form: ExportForm, path: Path, options: Options
) -> None:
    with (
        exporter_voice(
            "torch can make a graph of this model, but not write it as onnx", OTHERWISE["onnx"]
        ),
        torch.no_grad(),
    ):
        torch.onnx.export(
            program,
            (),
            path,
            dynamo=True,
            external_data=False,
            verbose=False,
            opset_version=options.opset,
            input_names=["image"],
            output_names=[form.output_name],
        )
        _mark(path, form, options.opset)


def _name_axes(graph: Any) -> None:
    """Call the free axes what they are; the exporter numbers them."""
    axes = graph.input[0].type.tensor_type.shape.dim
    names = {
        axes[number].dim_param: name for number, name in ((0, "batch"), (2, "height"), (3, "width"))
    }
    for value in (*graph.input, *graph.output, *graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.HasField("dim_param"):
                axis.dim_param = re.sub(
                    r"\w+", lambda found: names.get(found[0], found[0]), axis.dim_param
                )


def _write_pt2(program: torch.export.ExportedProgram, path: Path) -> None:
    # Through memory, since torch makes a RuntimeError of a full disk, or ends the process.
    whole = io.BytesIO()
    with exporter_voice("torch cannot write this model as pt2", OTHERWISE["pt2"]):
        torch.export.save(program, whole)
    path.write_bytes(whole.getbuffer())


def _mark(path: Path, form: ExportForm, opset: int | None) -> None:
    """Write into the file what a reader needs to use it: the classes, and what the input means.

    Raises:
        FreqKDError: the exporter wrote another operator set than was asked for; it says nothing where it cannot.
    """
    import onnx

    graph = onnx.load(path)
    found = next(one.version for one in graph.opset_import if not one.domain)
    if opset not in (None, found):
        raise FreqKDError(
            "torch cannot write this model in that operator set",
            got=found,
            need=f"--opset {opset}",
            tip="leave it out",
        )
    _name_axes(graph.graph)
    names = getattr(form.model, "id2label", None) or {}
    listed = [str(names[key]) for key in sorted(names, key=int)]
    facts = {
        "producer": "freqkd",
        "input": "RGB in [0, 1], float32 [B, 3, H, W]",
        "classes": json.dumps(listed, ensure_ascii=False),
    }
    for key, value in facts.items():
        graph.metadata_props.append(onnx.StringStringEntryProto(key=key, value=value))
    onnx.checker.check_model(graph)
    onnx.save(graph, path)


def _onnx_session(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        path.read_bytes(), settings, providers=["CPUExecutionProvider"]
    )
    return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])


@contextlib.contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """A path of the same name in a folder beside ``out``: on the same disk, so the rename is one step, and gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=".freqkd-", dir=out.parent))
    try:
        yield folder / out.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)
