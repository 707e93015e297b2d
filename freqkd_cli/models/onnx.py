"""A teacher of any framework as an ONNX file, run by onnxruntime.

The taps are ``logits`` and what ``outputs`` names. Their strides and channels are read from one run
of the file, or from the recipe. No gradient reaches it.

- The image is x = (RGB in [0, 1] * ``range`` - ``mean``) / ``std``. ``channels: bgr`` reverses the
  channels of x, so ``mean`` and ``std`` are in the order R, G, B either way. By default x is RGB
  in [0, 1], as in files that freqkd exports.
- A graph whose input is uint8 takes bytes: it needs ``range: 255``, without mean and std.
- A graph of one image size refuses other sizes. With ``fit: resize`` images are resized to it
  bilinearly, and the outputs back to their grids.
- Outputs of softmax need ``scores: probabilities``; their logarithm is then the logits.
- Class names are read from the metadata of the file (``classes``, ``names``). Without them classes
  are compared by number; ``class_map`` maps them. ``teacher.dtype`` has no effect.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NotRequired

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import TypedDict

from freqkd_cli.errors import FreqKDError, RecipeError
from freqkd_cli.features.segmenter import Segmenter
from freqkd_cli.features.taps import Tap
from freqkd_cli.models._log_scores import VERSION, log_of_probabilities
from freqkd_cli.models._onnx_file import Layout, OnnxFile, output_of, require_file
from freqkd_cli.models._onnx_form import Form, check_scores, open_file
from freqkd_cli.registry import flattened

TEACHER_ONLY = True
"""A recipe cannot name it as a student."""


class Output(TypedDict):
    """An output whose stride and channels are given, so that no file is needed to know them."""

    name: str
    stride: NotRequired[Annotated[int, Field(gt=0)]]
    channels: NotRequired[Annotated[int, Field(gt=0)]]


Outputs = dict[str, str | Output]


@flattened
def build(
    *,
    classes: int,
    weights: str,
    outputs: Outputs | None = None,
    form: Form,
) -> Segmenter:
    """Open an ONNX file.

    Args:
        classes: not used; the file decides it.
        weights: the file.
        outputs: tap -> output of the file, such as {logits: out, decoder: features}, or {name:
            features, stride: 8, channels: 256}. The only output, or the one called logits, needs
            no entry.

    Raises:
        WeightsMissing: the file is missing or onnxruntime cannot read it.
        RecipeError: it has no such input or output, ``outputs`` gives another stride or number of
            channels, ``scores`` is not what the output holds, or its input takes bytes and gets
            other numbers.
    """
    file = open_file(weights, form)
    listed = _taps(file, outputs or {}, classes)
    name = listed["logits"][0]
    check_scores(file, name, form.scores)
    arguments = {
        "weights": weights,
        "outputs": {tap: name for tap, (name, _) in listed.items()},
        **asdict(form),
        "input": file.input.name,
    }
    return OnnxTeacher(file, listed, arguments)


@flattened
def taps(
    *,
    classes: int,
    weights: str,
    outputs: Outputs | None = None,
    form: Form,
) -> tuple[Tap, ...]:
    """Return the taps: from the recipe where it gives them all, else from one run of the file.

    For a check without weights, unknown grids of a file that is not here are replaced by usual
    ones; :func:`fetch` refuses them where they matter.
    """
    outputs = {"logits": None, **(outputs or {})}
    if not _complete(outputs) and Path(weights).expanduser().is_file():
        listed = _taps(open_file(weights, form), outputs, classes)
        return tuple(tap for _, tap in listed.values())
    listed_taps = []
    for tap, entry in outputs.items():
        known = entry if isinstance(entry, Mapping) else {}
        width = known.get("channels", classes if tap == "logits" else 256)
        listed_taps.append(_tap(tap, width, known.get("stride", 8)))
    return tuple(listed_taps)


def class_names(
    *, weights: str, layout: Layout = "nchw", input: str | None = None, **_: object
) -> dict[int, str]:
    """Return class number -> name in the metadata of a file on this machine; empty without any."""
    here = Path(weights).expanduser().is_file()
    return (OnnxFile(weights, layout, input).class_names() if here else None) or {}


def fetch(*, weights: str, outputs: Outputs | None = None, **_: object) -> None:
    """Check that the file is here, where the recipe does not give the grids of all outputs.

    Raises:
        WeightsMissing: it is not.
    """
    if not _complete({"logits": None, **(outputs or {})}):
        require_file(weights)


def _complete(outputs: Mapping[str, object]) -> bool:
    """Return whether the recipe gives the strides and channels of all outputs."""
    return all(isinstance(x, Mapping) and {"stride", "channels"} <= {*x} for x in outputs.values())


def _tap(name: str, channels: int, stride: int) -> Tap:
    return Tap(name, stride, channels, "logits" if name == "logits" else "features")


def _taps(file: OnnxFile, outputs: Outputs, classes: int) -> dict[str, tuple[str, Tap]]:
    """Return tap -> (output of the file, the tap).

    Raises:
        RecipeError: there is no such output, or ``outputs`` gives another stride or channels of it.
    """
    named = {
        tap: output_of(tap, outputs, file.output_names)
        for tap in dict.fromkeys(["logits", *outputs])
    }
    grids = file.grids(tuple(dict.fromkeys(named.values())))
    listed = {tap: (name, _tap(tap, *grids[name])) for tap, name in named.items()}
    for tap, (name, own) in listed.items():
        entry = outputs.get(tap)
        given = entry if isinstance(entry, Mapping) else {}
        for key, number in (("stride", own.stride), ("channels", own.channels)):
            if given.get(key, number) != number:
                raise RecipeError(
                    f"the output {name} of {file.path}, the tap {tap}, has another {key}",
                    got=f"{key}: {given[key]}",
                    need=f"{key}: {number}",
                    key="outputs",
                )
    return listed


class OnnxTeacher(Segmenter):
    """An ONNX file; the module's docstring defines its input and outputs."""

    def __init__(
        self, file: OnnxFile, listed: Mapping[str, tuple[str, Tap]], arguments: dict[str, object]
    ) -> None:
        classes = listed["logits"][1].channels
        super().__init__(classes=classes, arguments=arguments, tap_names=list(listed))
        self.file, self.listed, self.given = file, dict(listed), dict(arguments)
        self.id2label = file.class_names()
        # The hash stands for the weights in the fingerprint of a cache.
        identity = file.sha256()
        if arguments["scores"] == "probabilities":
            identity = hashlib.sha256(identity + VERSION).digest()
        self.register_buffer("sha256", torch.tensor(list(identity), dtype=torch.uint8))
        self.scale = scale = float(arguments["range"])  # type: ignore[arg-type]
        mean, std = arguments["mean"] or [0.0] * 3, arguments["std"] or [1.0] * 3
        self.set_normalisation([x / scale for x in mean], [x / scale for x in std])
        self.shift, self.factor = torch.tensor([mean, std]).view(2, 1, 3, 1, 1)
        self.eval()

    def ready(self, device: torch.device) -> None:
        self.file.to(device)

    def normalise(self, images: Tensor) -> Tensor:
        """Return the images in the input form of the file: float32 on the CPU."""
        images = (images.detach().float().cpu() * self.scale - self.shift) / self.factor
        return images.flip(1) if self.given["channels"] == "bgr" else images

    @torch.no_grad()
    def forward(self, images: Tensor, taps: object = ()) -> dict[str, Tensor]:
        if images.is_meta:  # shapes alone, to count operations: torch sees none of a file
            rows, *size = len(images), *images.shape[-2:]
            shapes = {k: (x.channels, *x.grid(*size)) for k, (_, x) in self.listed.items()}
            return {tap: images.new_empty(rows, *shape) for tap, shape in shapes.items()}
        outputs = super().forward(images, taps)  # type: ignore[arg-type]
        return {name: tensor.to(images.device) for name, tensor in outputs.items()}

    def run(self, images: Tensor, taps: frozenset[str]) -> dict[str, Tensor]:
        wanted = {tap: self.listed[tap] for tap in ("logits", *sorted(taps - {"logits"}))}
        shape, size = images.shape[-2:], self._size(images)
        if size != tuple(shape):
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        names = tuple(dict.fromkeys(name for name, _ in wanted.values()))
        results = self.file.run(images.numpy(), names)
        outputs = {}
        for tap, (name, place) in wanted.items():
            tensor = torch.from_numpy(results[name].astype(np.float32))
            if tap == "logits" and self.given["scores"] == "probabilities":
                tensor = log_of_probabilities(tensor, 8 * results[name].dtype.itemsize)
            if size != tuple(shape):
                tensor = F.interpolate(tensor, place.grid(*shape), mode="bilinear")
            outputs[tap] = tensor
        return outputs

    def _size(self, images: Tensor) -> tuple[int, ...]:
        """Return the size that the graph takes.

        Raises:
            FreqKDError: it is another one, and the recipe does not resize.
        """
        shape = tuple(images.shape[-2:])
        size = tuple(own or side for own, side in zip(self.file.size, shape, strict=True))
        if size != shape and self.given["fit"] == "refuse":
            raise FreqKDError(
                "the ONNX teacher takes images of one size",
                got=f"{shape[0]}x{shape[1]} (height x width)",
                need=f"{size[0]}x{size[1]}",
                tip=f"--set 'data.size=[{size[0]}, {size[1]}]' for views, "
                "or --set 'teacher.fit=resize'",
                key="fit",
            )
        return size
