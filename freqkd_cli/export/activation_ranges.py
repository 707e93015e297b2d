"""The range of every activation of an ONNX graph over training images, by onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from freqkd_cli.errors import DataMissing, UsageError
from freqkd_cli.export.quiet import quiet_exporter
from freqkd_cli.views.loader import whole_batches

if TYPE_CHECKING:
    from freqkd_cli.images.dataset import Dataset

Method = Literal["percentile", "entropy", "minmax"]
Ranges = dict[str, tuple[float, float]]
"""Tensor name -> lowest and highest value that its 8 bits represent."""

METHODS = {"percentile": "Percentile", "entropy": "Entropy", "minmax": "MinMax"}
SETTINGS: dict[str, dict[str, Any]] = {"percentile": {"percentile": 99.99, "num_bins": 2048}}
"""Options of a method; the smallest and largest 0.005 % of the values are cut off."""
QUANTIZED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Relu", "Clip")
"""Operators that become int8: those with weights, and the activations that are merged into them.

onnxruntime adds, concatenates and pools in int8 as well where all neighbors are int8.
"""


def calibration_images(
    dataset: Dataset, number: int, size: tuple[int, int] | None
) -> Iterator[np.ndarray]:
    """Yield whole training images ``[1, 3, H, W]``, spread evenly over the split.

    Args:
        size: the only (height, width) that the graph takes; None = any.

    Raises:
        DataMissing: the split has no images.
        UsageError: the graph does not take the size of an image.
    """
    if not len(dataset):
        raise DataMissing(
            "--int8 needs training images to calibrate on, and the training split is empty",
            tip="--data-root DIR",
            key="data.root",
        )
    number = min(number, len(dataset))
    indices = [position * len(dataset) // number for position in range(number)]
    for batch in whole_batches(dataset, 1, indices=indices):
        height, width = batch.images.shape[-2:]
        if size and (height, width) != size:
            raise UsageError(
                "the training images have another size than the exported graph",
                got=f"{height}x{width}, padded to multiples of 32",
                need="{}x{}".format(*size),
                tip=f"--size {height},{width}",
                key="size",
            )
        yield batch.images.numpy()


class _One:
    """A reader of one image, in the form that onnxruntime's calibrators read."""

    def __init__(self, image: np.ndarray) -> None:
        self._image: np.ndarray | None = image

    def get_next(self) -> dict[str, np.ndarray] | None:
        image, self._image = self._image, None
        return None if image is None else {"image": image}


def calibrated_ranges(
    path: Path,
    images: Iterator[np.ndarray] | Sequence[np.ndarray],
    method: Method,
    folder: Path,
    done: Callable[[int], None] = lambda number: None,
) -> Ranges:
    """Return the ranges of the tensors around every quantized operator of an ONNX file.

    One image is run at a time, so that memory does not grow with their number.

    Args:
        folder: where the graph that returns all of these tensors is written.
        done: called with the number of images that were run.
    """
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    with quiet_exporter("onnxruntime cannot calibrate this model", "another --calibration"):
        calibrator = create_calibrator(
            str(path),
            QUANTIZED,
            augmented_model_path=str(folder / "calibrated.onnx"),
            calibrate_method=getattr(CalibrationMethod, METHODS[method]),
            extra_options=SETTINGS.get(method, {}),
        )
    for number, image in enumerate(images, start=1):
        with quiet_exporter("onnxruntime cannot calibrate this model", "another --calibration"):
            calibrator.collect_data(_One(image))
        done(number)
    with quiet_exporter("onnxruntime cannot calibrate this model", "another --calibration"):
        data = calibrator.compute_data()
        return {name: _bounds(entry.range_value) for name, entry in data.items()}


def _bounds(values: Sequence[Any]) -> tuple[float, float]:
    low, high = (float(np.asarray(value).reshape(-1)[0]) for value in values)
    return low, high
