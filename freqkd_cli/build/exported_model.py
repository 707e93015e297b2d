"""An exported file (``.onnx``, ``.pt2``) as a model, so that the shipped file can be scored.

The file runs on the CPU: ONNX by onnxruntime, pt2 by torch. Whatever its head returns becomes class
scores ``[B, K, h, w]``, from which labels are predicted as from a model's logits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from freqkd_cli.build.file_facts import FACTS_IN_PT2, FileFacts
from freqkd_cli.build.pt2_check import load_pt2
from freqkd_cli.build.saved import load_model
from freqkd_cli.errors import FreqKDError, UsageError, WeightsMissing, quoted
from freqkd_cli.features.simulated_int8 import simulate_stored
from freqkd_cli.runtime.latency import threads
from freqkd_cli.runtime.memory import out_of_memory
from freqkd_cli.runtime.onnx_options import onnx_options

SUFFIXES = (".onnx", ".pt2")
CERTAIN = 50.0
"""Score of the predicted class of a file that returns labels; the other classes have 0."""
RUNTIME = {"onnx": "onnxruntime", "pt2": "torch"}
"""Kind of file -> the program that runs it."""


def is_exported_file(path: str | Path) -> bool:
    """Return whether a path is that of a file that ``freqkd export`` wrote, by its suffix."""
    return Path(path).suffix.lower() in SUFFIXES and not Path(path).is_dir()


class ExportedModel(nn.Module):
    """An exported file as a model of class scores.

    Attributes:
        path: the file.
        facts: see :class:`FileFacts`.
        classes: K.
        id2label: class number -> name, or None.
        runs_on: the name of the device that the file runs on.
        file_bytes: size of the file.
    """

    runs_on = "cpu"

    def __init__(self, path: Path, number_of_threads: int | None = None) -> None:
        super().__init__()
        self.path, self.file_bytes = path, path.stat().st_size
        load = _load_onnx if path.suffix.lower() == ".onnx" else _load_pt2
        self._call, self.facts = load(path, number_of_threads or threads())
        self.classes = self.facts.classes
        self.id2label = dict(enumerate(self.facts.names)) or None
        self.eval()

    def __deepcopy__(self, memo: dict[int, Any]) -> ExportedModel:
        """Return a copy for one lane (``runtime.lanes``), which has one thread."""
        return ExportedModel(self.path, 1)

    def ready(self, device: torch.device) -> None:
        """Check the device.

        Raises:
            UsageError: it is not the CPU.
        """
        if device.type != self.runs_on:
            raise UsageError(
                "exported files run on the CPU", got=f"--device {device}", tip="leave --device out"
            )

    @property
    def runtime(self) -> str:
        """The program that runs the file."""
        return RUNTIME[self.path.suffix.lower().removeprefix(".")]

    @property
    def precision(self) -> str:
        """``int8`` for a file with layers in int8, else ``float32``."""
        if self.runtime == "torch":
            return "float32"
        import onnx

        nodes = onnx.load(self.path, load_external_data=False).graph.node
        return "int8" if any(node.op_type == "QuantizeLinear" for node in nodes) else "float32"

    def raw(self, images: Tensor) -> Tensor:
        """Return the file's own output for images ``[B, 3, H, W]``.

        Raises:
            UsageError: the graph takes another size.
            MemoryError: memory ran out.
            FreqKDError: the runtime failed.
        """
        size = self.facts.size
        if size and tuple(images.shape[-2:]) != size:
            raise _other_size(self.path, size, (images.shape[-2], images.shape[-1]))
        try:
            return self._call(images.contiguous())
        except Exception as error:  # onnxruntime raises classes of its own
            if out_of_memory(error):
                raise MemoryError(quoted(error)) from error
            raise _failed(self.path, error, images) from error

    def forward(self, images: Tensor, taps: Collection[str] = ()) -> dict[str, Tensor]:
        """Return class scores ``[B, K, h, w]`` under ``logits``, as a model does.

        Probabilities become their logarithms, whose softmax are the probabilities. Labels become
        one class with the score :data:`CERTAIN`.
        """
        if taps:
            raise UsageError(f"{self.path} is an exported file and has no taps", need="a run")
        values = self.raw(images)
        if self.facts.output == "labels":
            values = F.one_hot(values, self.classes).movedim(-1, 1).to(torch.float32) * CERTAIN
        elif self.facts.output == "probabilities":
            values = values.clamp_min(torch.finfo(torch.float32).tiny).log()
        return {"logits": values}


def returns_labels(model: nn.Module) -> bool:
    """Return whether a model is an exported file whose output is labels."""
    return isinstance(model, ExportedModel) and model.facts.output == "labels"


def load_exported(path: Path) -> ExportedModel:
    """Return the model of an exported file.

    Raises:
        WeightsMissing: the file is absent, damaged, or not written by ``freqkd export``.
    """
    if not path.is_file():
        raise WeightsMissing(f"there is no file {path}", need="a .onnx or .pt2 file")
    try:
        return ExportedModel(path)
    except (FreqKDError, MemoryError):
        raise
    except Exception as error:  # onnxruntime, zip files and torch each have their own classes
        raise WeightsMissing(
            f"{path} cannot be read",
            got=quoted(error),
            need="an undamaged file of freqkd export",
            tip="freqkd export RUN again",
        ) from error


def load_file_or_folder(source: Path) -> nn.Module:
    """Return the model of an exported file or of a model's folder, in eval mode.

    One that was trained with ``train.quantize`` computes in simulated int8.

    Raises:
        WeightsMissing: see :func:`load_exported` and ``build.saved.load_model``.
    """
    if is_exported_file(source):
        return load_exported(source)
    return simulate_stored(load_model(source))


def folder_of(source: Path) -> Path:
    """Return the folder with the records of a model: its own, or the one of an exported file."""
    return source.parent if is_exported_file(source) else source


def _load_onnx(path: Path, count: int) -> tuple[Callable[[Tensor], Tensor], FileFacts]:
    session = onnx_session(path, count)
    given, output = session.get_inputs()[0], session.get_outputs()[0]
    if given.name != "image" or len(given.shape) != 4:
        raise WeightsMissing(
            f"{path} has another input than files of freqkd export",
            got=f"{given.name} {given.shape}",
            need="image [B, 3, H, W]",
        )
    metadata = session.get_modelmeta().custom_metadata_map
    facts = FileFacts.read(path, metadata, output.name, given.shape[2:], output.shape[1])
    return onnx_call(session), facts


def onnx_session(path: Path, count: int) -> Any:
    """Return onnxruntime's session of a file on the CPU with ``count`` threads."""
    import onnxruntime

    return onnxruntime.InferenceSession(
        path.read_bytes(), onnx_options(count), providers=["CPUExecutionProvider"]
    )


def onnx_call(session: Any) -> Callable[[Tensor], Tensor]:
    """Return a session of one input ``image`` as a function of a tensor."""
    return lambda image: torch.from_numpy(session.run(None, {"image": image.cpu().numpy()})[0])


def _load_pt2(path: Path, count: int) -> tuple[Callable[[Tensor], Tensor], FileFacts]:
    extra = {FACTS_IN_PT2: ""}
    program = load_pt2(path, extra)
    metadata = json.loads(extra[FACTS_IN_PT2] or "{}")
    nodes = {node.name: node for node in program.graph.nodes}
    image, output = nodes["image"], nodes["output"]
    sides, channels = image.meta["val"].shape[2:], output.args[0][0].meta["val"].shape[1]
    facts = FileFacts.read(path, metadata, metadata.get("output", "logits"), sides, channels)
    module = program.module()  # in a function, because it refuses eval()
    return lambda image: module(image.cpu()), facts


def _other_size(path: Path, size: tuple[int, int], images: tuple[int, int]) -> UsageError:
    height, width = images
    return UsageError(
        f"{path} takes images of one size only",
        got=f"{height}x{width} (padded to multiples of 32)",
        need=f"{size[0]}x{size[1]}",
        tip=f"freqkd export RUN --size {height},{width}, or --slide {size[0]},{size[1]}",
    )


def _failed(path: Path, error: Exception, images: Tensor) -> FreqKDError:
    batch, _, height, width = images.shape
    return FreqKDError(
        f"{path} cannot be run on {batch} image{'s' * (batch > 1)} of {height}x{width}",
        got=quoted(error),
        tip="freqkd export RUN again",
    )
