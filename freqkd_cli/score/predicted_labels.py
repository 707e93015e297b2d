"""Labels of images that belong to no data set, as an evaluation predicts them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from freqkd_cli.runtime.lanes import Lanes
from freqkd_cli.runtime.precision import for_scores
from freqkd_cli.score.averaging import Averaging, labels_in_windows
from freqkd_cli.views.apply import apply_geometry
from freqkd_cli.views.upsample import predict_labels, require_finite
from freqkd_cli.views.view import whole

if TYPE_CHECKING:
    from torch import nn


class Predictor:
    """Predicts labels with a model in eval mode, on the device it is on.

    Args:
        averaging: only its windows are used.
    """

    def __init__(self, model: nn.Module, averaging: Averaging = Averaging()) -> None:  # noqa: B008
        self.averaging, self.lanes = averaging, Lanes(model)
        self.device = next(model.parameters()).device
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
            window, stride = self.averaging.window, self.averaging.stride
            if window and stride:
                each = zip(inputs.split(1), names[part], strict=True)
                rows = [labels_in_windows(model, x, window, stride, name) for x, name in each]
                return torch.cat(rows)
            logits = model(inputs)["logits"]
            require_finite(logits, names[part])
            return predict_labels(logits, (inputs.shape[-2], inputs.shape[-1]))

        parts = self.lanes.each(len(images), predict)
        return list(torch.cat(parts)[:, :height, :width].cpu().numpy())


def predicted(model: nn.Module, image: np.ndarray, name: str) -> np.ndarray:
    """The labels of one image, see :meth:`Predictor.labels`."""
    return Predictor(model).labels([image], [name])[0]
