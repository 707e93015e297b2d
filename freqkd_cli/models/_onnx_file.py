"""An ONNX file as onnxruntime runs it: its inputs, outputs, classes and hash."""

from __future__ import annotations

import ast
import hashlib
import json
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from freqkd_cli.errors import FreqKDError, RecipeError, WeightsMissing, quoted
from freqkd_cli.runtime.onnx_options import onnx_options

if TYPE_CHECKING:
    import onnxruntime

log = logging.getLogger(__name__)

Layout = Literal["nchw", "nhwc"]

_PROBE = 128
"""Side in pixels of the image that shows the grids of a graph of free size."""

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


class OnnxFile:
    """A session of onnxruntime. Copies of a model share it, since it may run in several threads.

    Args:
        input_name: of the image; None for the only input.

    Raises:
        WeightsMissing: there is no such file, or onnxruntime cannot read it.
        RecipeError: it has no such input, or one that takes no images.
    """

    def __init__(self, path: str, layout: Layout, input_name: str | None) -> None:
        self.path, self.layout = require_file(path), layout
        self._session = self._opened(("CPUExecutionProvider",))
        self.input = self._input(input_name)
        shape = self.input.shape
        axes = (1, 2) if layout == "nhwc" else (2, 3)
        self.size = tuple(shape[axis] if isinstance(shape[axis], int) else None for axis in axes)
        self.batch = shape[0] if isinstance(shape[0], int) else None
        self._black: dict[str, np.ndarray] = {}
        self.output_names = tuple(output.name for output in self._session.get_outputs())

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxFile:
        return self

    def to(self, device: torch.device) -> None:
        """Run on a GPU where onnxruntime can; a log line where it cannot."""
        import onnxruntime

        if device.type != "cuda":
            return
        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            gpu = ("CUDAExecutionProvider", {"device_id": device.index or 0})
            self._session = self._opened((gpu, "CPUExecutionProvider"))
        else:
            log.warning(
                "the ONNX teacher runs on the CPU: onnxruntime has no CUDA here; "
                "pip install onnxruntime-gpu"
            )

    def run(self, images: np.ndarray, names: Collection[str]) -> dict[str, np.ndarray]:
        """Return named outputs ``[B, C, h, w]`` of images ``[B, 3, H, W]``.

        A graph of a fixed batch runs on parts. The last one is filled with copies of its last
        image, whose outputs are dropped.

        Raises:
            FreqKDError: the graph does not run on them.
        """
        number = len(images)
        if self.batch not in (None, number):
            copies = np.repeat(images[-1:], -number % self.batch, axis=0)
            padded = np.concatenate([images, copies])
            starts = range(0, len(padded), self.batch)
            parts = [self.run(padded[k : k + self.batch], names) for k in starts]
            return {name: np.concatenate([part[name] for part in parts])[:number] for name in names}
        kind = _TYPES[self.input.type]
        images = images.round().clip(0, 255) if kind == np.uint8 else images
        given = images.transpose(0, 2, 3, 1) if self.layout == "nhwc" else images
        feed = {self.input.name: np.ascontiguousarray(given.astype(kind))}
        try:
            results = self._session.run(list(names), feed)
        except Exception as error:  # onnxruntime raises classes of its own
            raise FreqKDError(
                f"{self.path} does not run on images of {images.shape[2]}x{images.shape[3]}",
                got=quoted(error),
                key="weights",
            ) from error
        if self.layout == "nhwc":
            results = [x.transpose(0, 3, 1, 2) if x.ndim == 4 else x for x in results]
        return dict(zip(names, results, strict=True))

    def grids(self, names: Collection[str]) -> dict[str, tuple[int, int]]:
        """Return output -> (channels, stride), from one run on a black image.

        Raises:
            RecipeError: an output is no map with one stride.
        """
        height, width = (side or _PROBE for side in self.size)
        results = self.of_black(names)
        return {name: self._grid(name, x.shape, height, width) for name, x in results.items()}

    def of_black(self, names: Collection[str]) -> dict[str, np.ndarray]:
        """Return outputs of a black image; the graph runs once for each output."""
        if missing := [name for name in names if name not in self._black]:
            height, width = (side or _PROBE for side in self.size)
            black = np.zeros((self.batch or 1, 3, height, width), np.float32)
            self._black |= self.run(black, missing)
        return {name: self._black[name] for name in names}

    def class_names(self) -> dict[int, str] | None:
        """Return the class names in the file's metadata, None where there are none.

        ``classes`` is a JSON list, as freqkd writes it. ``names`` is a dictionary of Python.
        """
        metadata = self._session.get_modelmeta().custom_metadata_map
        try:
            if "classes" in metadata:
                return dict(enumerate(map(str, json.loads(metadata["classes"])))) or None
            names = ast.literal_eval(metadata.get("names", "None"))
            return {int(key): str(name) for key, name in names.items()} if names else None
        except (ValueError, SyntaxError, TypeError, AttributeError):
            return None

    def sha256(self) -> bytes:
        """Return the hash of the file and of the files with its external data."""
        import onnx

        graph = onnx.load(str(self.path), load_external_data=False).graph
        names = {
            entry.value
            for tensor in graph.initializer
            for entry in tensor.external_data
            if entry.key == "location"
        }
        total = hashlib.sha256()
        for path in (self.path, *(self.path.parent / name for name in sorted(names))):
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        return total.digest()

    def _opened(self, providers: Any) -> onnxruntime.InferenceSession:
        import onnxruntime

        options = onnx_options(torch.get_num_threads())
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            return onnxruntime.InferenceSession(str(self.path), options, providers=list(providers))
        except Exception as error:  # onnxruntime raises classes of its own
            raise WeightsMissing(
                f"onnxruntime cannot read {self.path}", got=quoted(error), need="an ONNX file"
            ) from error

    def _input(self, name: str | None) -> Any:
        inputs = {entry.name: entry for entry in self._session.get_inputs()}
        chosen = next(iter(inputs.values())) if len(inputs) == 1 else inputs.get(name or "")
        if chosen is None or name not in (None, chosen.name):
            raise RecipeError(
                f"{self.path} has no input {name!r}" if name else "the image needs a name",
                got=f"the inputs {', '.join(inputs)}",
                tip=f"--set 'input={next(iter(inputs), 'NAME')}'",
                key="input",
            )
        if chosen.type not in _TYPES or len(chosen.shape) != 4:
            raise RecipeError(
                f"the input {chosen.name} of {self.path} takes no images",
                got=f"{chosen.type} {list(chosen.shape)}",
                need="4 axes of float32, float16 or uint8",
                key="input",
            )
        return chosen

    def _grid(self, name: str, shape: tuple[int, ...], height: int, width: int) -> tuple[int, int]:
        if len(shape) == 3:
            raise RecipeError(
                f"the output {name} of {self.path} has no axis of classes",
                got=f"{list(shape)}, such as class numbers",
                need="class scores, [B, C, h, w]",
                tip="freqkd export RUN --head logits, for a student of freqkd",
                key="outputs",
            )
        stride = round(height / shape[2]) if len(shape) == 4 and shape[2] else 0
        if not stride or (-(-height // stride), -(-width // stride)) != shape[2:]:
            raise RecipeError(
                f"the output {name} of {self.path} is not a map with one stride",
                got=f"{list(shape)} for an image of {height}x{width}",
                need="[B, C, H / stride, W / stride], in the layout of the input",
                tip="--set 'layout=nhwc'" if self.layout == "nchw" else "--set 'layout=nchw'",
                key="outputs",
            )
        return shape[1], stride


def require_file(path: str) -> Path:
    """Return the path of an existing file.

    Raises:
        WeightsMissing: there is none, or it is a folder or a pt2 file.
    """
    file = Path(path).expanduser()
    if file.is_file() and file.suffix.lower() != ".pt2":
        return file
    what, tip = f"there is no file {file}", None
    if file.exists():
        what = f"{file} is a {'folder' if file.is_dir() else 'pt2 file'}"
        inside = sorted(file.glob("*.onnx")) if file.is_dir() else []
        tip = f"--set 'weights={inside[0]}'" if inside else "freqkd export RUN --format onnx"
    raise WeightsMissing(what, need="an ONNX file", tip=tip, key="weights")


def output_of(tap: str, outputs: Mapping[str, Any], names: Collection[str]) -> str:
    """Return the output that is a tap: that of the recipe, else its own or the only one.

    Args:
        names: the outputs of the file.

    Raises:
        RecipeError: there is none.
    """
    given = outputs.get(tap)
    name = given["name"] if isinstance(given, Mapping) else given
    if name is None and tap == "logits":
        name = next(iter(names)) if len(names) == 1 else "logits"
    if name not in names:
        raise RecipeError(
            f"the file has no output {name!r}, for the tap {tap}",
            got=f"the outputs {', '.join(names)}",
            tip=f"--set 'outputs={{{tap}: {next(iter(names), 'NAME')}}}'",
            key="outputs",
        )
    return str(name)
