"""Trials of an int8 file: each is written, scored, and compared with the float32 file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from freqkd_cli.build.exported_model import load_exported
from freqkd_cli.errors import CheckFailed
from freqkd_cli.export.activation_ranges import (
    Method,
    Ranges,
    calibrated_ranges,
    calibration_images,
)
from freqkd_cli.export.quantized_graph import Layer, layers, with_trained_ranges, write_int8
from freqkd_cli.export.sensitivity import most_harmful
from freqkd_cli.runtime.processes import ALONE

if TYPE_CHECKING:
    from torch import Tensor

    from freqkd_cli.images.dataset import Dataset
    from freqkd_cli.runtime.progress import Progress
    from freqkd_cli.score.scored_split import ScoredSplit
    from freqkd_cli.weights.quantization import Quantization

RANKED_ON = 2
"""Calibration images on which the layers are ranked."""
NAMED = 5
"""Layers that an error names."""


@dataclass(frozen=True)
class Int8Options:
    """How the int8 file is made and accepted.

    Attributes:
        calibration: how a range is derived from the values on the calibration images.
        images: number of calibration images.
        max_drop: largest accepted loss of mIoU, in points.
        mixed: keep the most harmful layers in float32 until the loss is accepted.
    """

    calibration: Method = "minmax"
    images: int = 32
    max_drop: float = 1.0
    mixed: bool = False


@dataclass(frozen=True)
class Scored:
    """A file on the images that are scored.

    Attributes:
        miou: in [0, 1].
        agreement: share of the pixels with the float32 file's class.
        in_float: layers that stay in float32.
    """

    miou: float
    agreement: float = 1.0
    in_float: tuple[Layer, ...] = ()


class Int8Trial:
    """The float32 file of a model, its ranges, and trials of it in int8.

    Args:
        folder: holds the float32 file and all trials; removed by the caller.
        split: what files are scored on.
    """

    def __init__(
        self, folder: Path, split: ScoredSplit, options: Int8Options, progress: Progress
    ) -> None:
        self.folder, self.split, self.options, self.progress = folder, split, options, progress
        self.float_file, self.int8_file = folder / "float.onnx", folder / "int8.onnx"
        self.ranges: Ranges = {}
        self.images: list[np.ndarray] = []
        self.baseline = Scored(0.0)

    def prepare(self, train: Dataset, trained: Quantization | None) -> None:
        """Score the float32 file, and calibrate its ranges on the training images."""
        model = load_exported(self.float_file)
        self.split.check_classes(model, "the model", "use --recipe with the model's data")

        def keep(number: int, labels: Tensor) -> None:
            kept = labels.numpy().astype(np.int16)
            np.savez_compressed(self.folder / f"{number}.npz", labels=kept)

        self.progress.note(
            f"scoring the float32 file on {self.split.images} images of {self.split.split}"
        )
        result = self.split.score(model, "float32", self.progress, ALONE, each=keep)
        self.baseline = Scored(result.values["miou"] or 0.0)
        count = min(self.options.images, len(train))
        self.progress.note(f"calibrating the ranges of activations on {count} training images")
        self.progress.begin("calibration", count)
        try:
            images = self._watched(calibration_images(train, count, model.facts.size))
            method, advance = self.options.calibration, self.progress.advance
            self.ranges = calibrated_ranges(self.float_file, images, method, self.folder, advance)
        finally:
            self.progress.end()
        if trained:
            self.ranges = with_trained_ranges(onnx.load(self.float_file), self.ranges, trained)

    def _watched(self, images: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the images and keep the first ones, on which layers are ranked."""
        for image in images:
            if len(self.images) < RANKED_ON:
                self.images.append(image)
            yield image

    def score(self, in_float: Sequence[Layer] = ()) -> Scored:
        """Write and score the int8 file with some layers in float32."""
        in_words = f", {len(in_float)} layers in float32" if in_float else ""
        self.progress.note(f"writing the int8 file{in_words}")
        write_int8(self.float_file, self.int8_file, self.ranges, [layer.node for layer in in_float])
        same, pixels = 0, 0

        def count(number: int, labels: Tensor) -> None:
            nonlocal same, pixels
            expected = np.load(self.folder / f"{number}.npz")["labels"]
            same += int((labels.numpy() == expected).sum())
            pixels += expected.size

        model = load_exported(self.int8_file)
        self.progress.note(
            f"scoring the int8 file on {self.split.images} images of {self.split.split}"
        )
        result = self.split.score(model, f"int8{in_words}", self.progress, ALONE, each=count)
        return Scored(result.values["miou"] or 0.0, same / max(pixels, 1), tuple(in_float))

    def drop(self, scored: Scored) -> float:
        """Return the loss of mIoU in points; negative where the int8 file is better."""
        return 100 * (self.baseline.miou - scored.miou)

    def accepted(self) -> Scored:
        """Return the first trial whose loss is accepted; its file is the one that is kept.

        Raises:
            CheckFailed: the loss is larger than ``max_drop``; the message names the layers that
                hurt most.
        """
        first = scored = self.score()
        if self.drop(scored) <= self.options.max_drop:
            return scored
        ranked = self._ranked()
        number = 1
        while self.options.mixed and number < len(ranked):
            scored = self.score([layer for layer, _ in ranked[:number]])
            if self.drop(scored) <= self.options.max_drop:
                return scored
            number *= 2
        raise self._refusal(first, ranked)

    def _ranked(self) -> list[tuple[Layer, float]]:
        number = len(layers(onnx.load(self.float_file)))
        self.progress.note(f"comparing the errors of {number} layers, each alone in int8")
        self.progress.begin("layer", number)
        try:
            return most_harmful(
                self.float_file, self.ranges, self.images, self.folder, self.progress.advance
            )
        finally:
            self.progress.end()

    def _refusal(self, scored: Scored, ranked: Sequence[tuple[Layer, float]]) -> CheckFailed:
        named = ", ".join(f"{layer.name} ({share:.0%})" for layer, share in ranked[:NAMED])
        float32, int8 = 100 * self.baseline.miou, 100 * scored.miou
        others = [name for name in ("entropy", "minmax") if name != self.options.calibration]
        mixed = "" if self.options.mixed else "--mixed, "
        return CheckFailed(
            "the int8 file loses more mIoU than --max-drop allows, so it was not written",
            got=f"{self.drop(scored):.2f} points ({float32:.2f} in float32, {int8:.2f} in int8, "
            f"{100 * scored.agreement:.2f} % of the pixels with the same class). Layers that hurt "
            f"most, with their share of the error: {named}",
            need=f"at most {self.options.max_drop:g} points",
            tip=f"{mixed}--calibration {others[0]}, more --calibration-images, or train it with "
            "--set train.quantize=int8 --set student.weights=RUN",
        )
