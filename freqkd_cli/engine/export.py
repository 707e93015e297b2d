"""A trained model as one file that other programs run: ONNX or torch.export's pt2. Checked before it gets its name.

Input ``image`` float32 ``[B, 3, H, W]``, RGB in [0, 1], any batch and any size; the normalisation is inside. Output ``logits`` at the
model's own stride; at the image's size with ``upsample``; ``labels`` (int64 class numbers) with ``argmax``.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from freqkd_cli.engine.latency import median_ms, threads
from freqkd_cli.engine.parity import SIZES, Parity, compare, probe_image
from freqkd_cli.errors import FreqKDError, UsageError

Format = Literal["onnx", "pt2", "safetensors"]
FORMATS: tuple[Format, ...] = ("onnx", "pt2", "safetensors")


@dataclass(frozen=True)
class Options:
    """What the exported file answers.

    Attributes:
        upsample: logits at the image's size (bilinear, align_corners False, as the evaluation does).
        argmax: class numbers in place of logits.
        opset: ONNX operator set; the exporter's own choice where it is None.
        sizes: (batch, height, width) that the check runs.
        latency_size: (height, width) of the latency table.
    """

    upsample: bool = False
    argmax: bool = False
    opset: int | None = None
    sizes: Sequence[tuple[int, int, int]] = SIZES
    latency_size: tuple[int, int] = (192, 256)


class ExportForm(nn.Module):
    """The model as a function of one tensor: ``[B, 3, H, W]`` -> logits ``[B, K, h, w]``, or labels ``[B, h, w]`` int64."""

    def __init__(self, model: nn.Module, *, upsample: bool = False, argmax: bool = False) -> None:
        super().__init__()
        self.model, self.upsample, self.argmax = model, upsample, argmax
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        logits = self.model(image)["logits"]
        if self.upsample:
            logits = F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)
        return logits.argmax(1) if self.argmax else logits

    @property
    def output_name(self) -> str:
        return "labels" if self.argmax else "logits"


def export_file(model: nn.Module, out: Path, kind: Literal["onnx", "pt2"], options: Options = Options()) -> dict[str, Any]:  # noqa: B008 - frozen
    """Write ``model`` to ``out``, checked: the file gets its name only after it has answered like the model at every size.

    Returns:
        The result's JSON: file, format, bytes, max_abs_difference, relative_difference, argmax_agreement, sizes, latency_ms, threads.

    Raises:
        CheckFailed: the exported model answers differently; nothing is left behind.
        FreqKDError: the exporter cannot express the model.
    """
    form = ExportForm(model.float().cpu(), upsample=options.upsample, argmax=options.argmax)
    out.parent.mkdir(parents=True, exist_ok=True)
    with _aside(out) as aside:
        with exporter_voice(f"torch cannot write this model as {kind}"), torch.inference_mode(False), torch.no_grad():
            (_write_onnx if kind == "onnx" else _write_pt2)(form, aside, options)
        run = _onnx_session(aside) if kind == "onnx" else _pt2_program(aside)
        parity = compare(form, run, options.sizes)
        parity.require(f"the {kind} file")
        latency = _latency(form, run, options.latency_size, kind)
        size = aside.stat().st_size
        os.replace(aside, out)
    return _result(out, kind, size, parity) | {"output": form.output_name, "latency_ms": latency, "threads": threads()}


def _result(out: Path, kind: str, size: int, parity: Parity) -> dict[str, Any]:
    return {
        "file": str(out),
        "format": kind,
        "bytes": size,
        "max_abs_difference": parity.max_abs_difference,
        "relative_difference": parity.relative_difference,
        "argmax_agreement": parity.argmax_agreement,
        "sizes": [list(size) for size in parity.sizes],
    }


def _write_onnx(form: ExportForm, path: Path, options: Options) -> None:
    torch.onnx.export(
        form,
        (probe_image(2, 192, 256),),
        path,
        dynamo=True,
        external_data=False,
        verbose=False,
        opset_version=options.opset,
        input_names=["image"],
        output_names=[form.output_name],
        dynamic_shapes={"image": {0: "batch", 2: "height", 3: "width"}},
    )
    _mark(path, form)


def _mark(path: Path, form: ExportForm) -> None:
    """Write into the file what a reader needs to use it: the classes, and what the input means."""
    import onnx

    graph = onnx.load(path)
    names = getattr(form.model, "id2label", None) or {}
    listed = [str(names[key]) for key in sorted(names, key=int)]
    facts = {"producer": "freqkd", "input": "RGB in [0, 1], float32 [B, 3, H, W]", "classes": json.dumps(listed, ensure_ascii=False)}
    for key, value in facts.items():
        graph.metadata_props.append(onnx.StringStringEntryProto(key=key, value=value))
    onnx.checker.check_model(graph)
    onnx.save(graph, path)


def _write_pt2(form: ExportForm, path: Path, options: Options) -> None:
    dynamic = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(form, (probe_image(2, 192, 256),), dynamic_shapes={"image": dynamic}, strict=False)
    torch.export.save(program, path)


def _onnx_session(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(path.read_bytes(), settings, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])


def _pt2_program(path: Path) -> Callable[[Tensor], Tensor]:
    module = torch.export.load(path).module()
    return lambda image: module(image)


@torch.inference_mode()
def _latency(form: ExportForm, run: Callable[[Tensor], Tensor], size: tuple[int, int], kind: str) -> dict[str, Any]:
    """Median milliseconds of one image in torch and in the exported form, on the same number of threads."""
    image = probe_image(1, *size)
    return {
        "size": [1, *size],
        "torch": median_ms(lambda: form(image), runs=10),
        "onnxruntime" if kind == "onnx" else "pt2": median_ms(lambda: run(image), runs=10),
    }


@contextlib.contextmanager
def exporter_voice(what: str) -> Iterator[None]:
    """Keep the exporter's chatter off stdout and stderr, and turn its failure into one message.

    Raises:
        FreqKDError: the body failed; the first line of its error is in the message.
    """
    said = io.StringIO()
    level = logging.root.manager.disable
    try:
        logging.disable(logging.ERROR)
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (FreqKDError, OSError, MemoryError):
        raise
    except Exception as error:  # the exporters raise classes from four packages; all of them mean that this model cannot be written
        lines = [line for line in str(error).splitlines() if line.strip()] or [""]
        got = f"{type(error).__name__}: {lines[0][:200]}"
        raise FreqKDError(what, got=got, tip="--debug shows all of it; another --opset or --format") from error
    finally:
        logging.disable(level)


@contextlib.contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """A path of the same name in a folder beside ``out``: on the same disk, so the rename is one step, and gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=".freqkd-", dir=out.parent))
    try:
        yield folder / out.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def refuse_existing(out: Path, kind: Format, overwrite: bool) -> None:
    """Raise where ``out`` is in the way.

    Raises:
        UsageError: it exists and ``overwrite`` is not set, or it is a folder where a file is to be written, or the other way round.
    """
    if out.exists() and out.is_dir() != (kind == "safetensors"):
        need = "a folder" if kind == "safetensors" else "a file"
        raise UsageError(f"{out} is {'a folder' if out.is_dir() else 'a file'}", need=f"{need} for --format {kind}", tip="another --out")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} is there already", tip="--overwrite, or another --out")


def plain_only(kind: Format, options: Options) -> None:
    """Refuse options that a folder of weights cannot hold.

    Raises:
        UsageError: upsample, argmax or opset where there is no graph to put them in.
    """
    given = [name for name in ("upsample", "argmax", "opset") if getattr(options, name)]
    if given and kind == "safetensors" or options.opset and kind == "pt2":
        raise UsageError(f"--{given[-1]} changes a graph, and --format {kind} has none to change", tip="--format onnx")
