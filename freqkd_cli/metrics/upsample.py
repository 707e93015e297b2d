"""Logits brought to the size of the labels: the step that costs most of a cross-entropy and of an evaluation on a CPU."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def upsampled(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """``[..., K, h, w] -> [..., K, H, W]``, bilinear with align_corners False, float32 (float64 stays).

    On a CPU this is two matrix products per channel, rows and columns apart: the same numbers as ``F.interpolate`` to rounding, and several
    times as fast. Give it one picture at a time there: a picture's logits stay in the processor's cache, a batch's do not.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    height, width = size
    if tuple(logits.shape[-2:]) == (height, width):
        return logits
    if logits.device.type != "cpu":
        batched = logits.reshape(-1, *logits.shape[-3:])
        return F.interpolate(batched, size=(height, width), mode="bilinear", align_corners=False).reshape(*logits.shape[:-2], height, width)
    rows, columns = _weights(logits.shape[-2], height, logits.dtype), _weights(logits.shape[-1], width, logits.dtype)
    return rows @ (logits.contiguous() @ columns.T)


@lru_cache(maxsize=64)
def _weights(cells: int, pixels: int, dtype: torch.dtype) -> Tensor:
    """``[pixels, cells]``: how much of every cell each pixel takes, two numbers a row that add up to 1."""
    with torch.no_grad(), torch.inference_mode(False):
        return F.interpolate(torch.eye(cells, dtype=dtype)[None, None], size=(pixels, cells), mode="bilinear", align_corners=False)[0, 0]
