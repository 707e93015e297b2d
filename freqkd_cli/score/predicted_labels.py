"""Labels of images that belong to no data set, as an evaluation predicts them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from freqkd_cli.runtime.lanes import Lanes
from freqkd_cli.runtime.precision import for_scores
from freqkd_cli.score.averaging import Averaged, Averaging, labels_in_windows
from freqkd_cli.views.apply import apply_geometry
from freqkd_cli.views.upsample import predict_labels, require_finite
from freqkd_cli.views.view import whole

if TYPE_CHECKING:
    from torch import nn


class Predictor:
    """Predicts labels with a model in eval mode, on the device it is on.

    Args:
        averaging: what is averaged, image by image.
    """

    def __init__(self, model: nn.Module, averaging: Averaging = Averaging()) -> None:  # noqa: B008
        self.averaging = averaging
        as_it_is = averaging.plain or averaging.only_windows
        self.lanes = Lanes(model if as_it_is else Averaged(model, averaging))
        self.device = next(model.parameters(), torch.empty(0)).device  # a file has no parameters
        self.compute = for_scores(self.device)

    @torch.inference_mode()
    def labels(self, images: Sequence[np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
        """Images ``[H, W, 3]`` uint8 RGB of one size -> the class of every pixel, ``[H, W]`` int64.

        Raises:
            FreqKDError: the logits of an image are not finite; ``names`` are those of the images.
        """
        height, width = images[0].shape[:2]
        view = whole((height, width))
        padded = torch.stack([apply_geometry(view, image, None)[0] for image in images])

        def predict(model: nn.Module, part: slice) -> Tensor:
            inputs = self.compute.layout(padded[part].to(self.device))
            if self.averaging.plain:
                return _labels_of(model, inputs, names[part])
            # Averaged probabilities have the size of the image: a batch would fill the memory.
            each = zip(inputs.split(1), names[part], strict=True)
            return torch.cat([self._averaged(model, image, name) for image, name in each])

        parts = self.lanes.each(len(images), predict)
        return list(torch.cat(parts)[:, :height, :width].cpu().numpy())

    def _averaged(self, model: nn.Module, image: Tensor, name: str) -> Tensor:
        """Labels ``[1, H, W]`` of one image ``[1, 3, H, W]``."""
        window, stride = self.averaging.window, self.averaging.stride
        if window and stride and self.averaging.only_windows:
            return labels_in_windows(model, image, window, stride, name)
        return _labels_of(model, image, [name])


def _labels_of(model: nn.Module, images: Tensor, names: Sequence[str]) -> Tensor:
    """Labels ``[B, H, W]`` of one pass of ``model``.

    Raises:
        FreqKDError: the logits of an image are not finite.
    """
    logits = model(images)["logits"]
    require_finite(logits, names)
    return predict_labels(logits, (images.shape[-2], images.shape[-1]))


def predicted(model: nn.Module, image: np.ndarray, name: str) -> np.ndarray:
    """The labels of one image, see :meth:`Predictor.labels`."""
    return Predictor(model).labels([image], [name])[0]
