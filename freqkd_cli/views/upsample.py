"""Logits resized to the size of the labels, and the labels predicted from them.

On a CPU this is the most expensive part of a cross-entropy and of an evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from freqkd_cli.errors import FreqKDError

BAND = 2**23
"""Upsampled logits that :func:`predict_labels` holds at a time on a CPU: 32 MiB of float32.

On 1024x2048 pixels and 19 classes bands took 0.75 of the time of the whole map (one core).
"""

CLASSES = 32
"""Classes that :func:`predict_labels` upsamples at a time on a CPU."""

PLANES = 2**26
"""Upsampled logits that it holds at a time on a GPU: 256 MiB of float32.

All of 150 classes at 1024x2048 would be 1.2 GiB for every image.
"""


def upsampled(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """``[B, K, h, w] -> [B, K, H, W]``, bilinear (align_corners False), float32 (float64 stays).

    On a CPU this is two matrix products per channel, one for rows and one for columns, with the
    numbers of ``F.interpolate`` up to rounding. With :func:`parts`, three cross-entropies of
    8x11x288x384 took 0.31 s forward and backward on one core instead of 0.78 s.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    height, width = size
    if tuple(logits.shape[-2:]) == (height, width):
        return logits
    if logits.device.type != "cpu":
        return F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
    rows = _weights(logits.shape[-2], height, logits.dtype)
    columns = _weights(logits.shape[-1], width, logits.dtype)
    return rows @ (logits.contiguous() @ columns.T)


def parts(logits: Tensor) -> list[slice]:
    """The parts of a batch to upsample one after the other.

    On a CPU these are single images, which its cache can hold; elsewhere the whole batch.
    """
    if logits.device.type != "cpu":
        return [slice(None)]
    return [slice(i, i + 1) for i in range(len(logits))]


@lru_cache(maxsize=64)
def _weights(cells: int, pixels: int, dtype: torch.dtype) -> Tensor:
    """``[pixels, cells]``: the share of every cell in each pixel; rows add up to 1."""
    with torch.no_grad(), torch.inference_mode(False):
        eye = torch.eye(cells, dtype=dtype)[None, None]
        size = (pixels, cells)
        return F.interpolate(eye, size=size, mode="bilinear", align_corners=False)[0, 0]


def predict_labels(logits: Tensor, label_size: tuple[int, int]) -> Tensor:
    """The most likely class of every pixel, int64 ``[B, H, W]``.

    Logits ``[B, K, h, w]`` are upsampled bilinearly (align_corners False) to ``label_size`` before
    the argmax. For a padded view, ``label_size`` is the size of the padded view, and the result is
    cropped to the image afterwards, ``[:, :height, :width]``. The logits' cells cover the padding
    too, so resizing them straight to the image would shift every edge.
    """
    if logits.device.type == "cpu":
        return torch.cat([_labels_in_bands(logits[part], label_size) for part in parts(logits)])
    return _labels_by_classes(logits, label_size, PLANES)


def predict_confidence(logits: Tensor, label_size: tuple[int, int]) -> Tensor:
    """The largest softmax probability of every pixel, float32 ``[B, H, W]``.

    It is that of the class that :func:`predict_labels` predicts, from the same upsampled logits.
    """
    return _read(logits, label_size, _largest_probability)


def _read(logits: Tensor, label_size: tuple[int, int], read: Callable[[Tensor], Tensor]) -> Tensor:
    """``read`` of the upsampled logits, without holding those of the whole batch on a CPU."""
    if logits.device.type != "cpu":
        return read(upsampled(logits, label_size))
    return torch.cat([_in_bands(logits[part], label_size, read) for part in parts(logits)])


def _in_bands(
    logits: Tensor, label_size: tuple[int, int], read: Callable[[Tensor], Tensor]
) -> Tensor:
    """``read`` of CPU logits, upsampled a band of rows at a time.

    The memory this needs depends on the width of the image, but not on its height.
    """
    height, width = label_size
    size = tuple(logits.shape[-2:])
    step = max(1, BAND // (logits.shape[0] * logits.shape[1] * width))
    if size == label_size or step >= height:
        return read(upsampled(logits, label_size))
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    rows = _weights(size[0], height, logits.dtype)
    wide = logits.contiguous() @ _weights(size[1], width, logits.dtype).T
    bands = (rows[top : top + step] @ wide for top in range(0, height, step))
    return torch.cat([read(band) for band in bands], dim=1)


def _labels_in_bands(logits: Tensor, label_size: tuple[int, int]) -> Tensor:
    """:func:`most_likely` of CPU logits, upsampled a band of rows of some classes at a time."""
    height, width = label_size
    size = tuple(logits.shape[-2:])
    step = max(1, BAND // (logits.shape[0] * logits.shape[1] * width))
    if size == label_size or step >= height:
        return most_likely(upsampled(logits, label_size))
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    rows = _weights(size[0], height, logits.dtype)
    columns = _weights(size[1], width, logits.dtype).T
    best, label = _empty_maximum(logits, label_size)
    for first in range(0, logits.shape[1], CLASSES):
        wide = logits[:, first : first + CLASSES].contiguous() @ columns
        for top in range(0, height, step):
            band = slice(top, top + step)
            _update_maximum(best[:, band], label[:, band], rows[band] @ wide, first)
    return label.to(torch.int64)


def _labels_by_classes(logits: Tensor, label_size: tuple[int, int], most: int) -> Tensor:
    """``argmax(1)`` of the upsampled logits, of which it holds about ``most`` at a time."""
    step = max(1, most // (logits.shape[0] * label_size[0] * label_size[1]))
    best = label = None
    for first in range(0, logits.shape[1], step):
        planes = upsampled(logits[:, first : first + step], label_size)
        place = planes.argmax(1)
        value = planes.gather(1, place[:, None])[:, 0]
        if best is None or label is None:
            best, label = value, place
        else:
            # The first of equal maxima is kept.
            label = torch.where(value > best, place + first, label)
            best = torch.maximum(best, value)
    assert label is not None
    return label


def _largest_probability(logits: Tensor) -> Tensor:
    """``softmax(1).amax(1)``, without the probabilities of the other classes."""
    return (logits.amax(1) - logits.logsumexp(1)).exp_()


def most_likely(logits: Tensor) -> Tensor:
    """``argmax(1)``, the first of equal maxima, int64.

    torch's own takes 5 times as long on a CPU, where it strides over whole planes.
    """
    if logits.device.type != "cpu":
        return logits.argmax(1)
    best, label = _empty_maximum(logits, (logits.shape[-2], logits.shape[-1]))
    _update_maximum(best, label, logits, 0)
    return label.to(torch.int64)


def _empty_maximum(logits: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The largest logit and its class where none was seen yet, ``[B, H, W]``."""
    best = logits.new_full((len(logits), *size), -torch.inf)
    return best, torch.zeros(best.shape, dtype=_label_type(logits.shape[1]))


def _update_maximum(best: Tensor, label: Tensor, planes: Tensor, first: int) -> None:
    """Bring the largest logit and its class up to date, in place, with those of further classes.

    Args:
        planes: ``[B, K, H, W]``, of the classes ``first`` to ``first`` + K - 1.
    """
    for number, plane in enumerate(planes.unbind(1), first):
        if number > 0:
            higher = (plane > best).view(torch.uint8)
            # Numbers rise, so the larger number is the later one. A maximum of bytes costs a tenth
            # of a masked fill.
            torch.maximum(label, higher.to(label.dtype).mul_(number), out=label)
        torch.maximum(best, plane, out=best)


def _label_type(classes: int) -> torch.dtype:
    """The smallest type that holds the numbers of so many classes."""
    types = (torch.uint8, torch.int16, torch.int32)
    return next(dtype for dtype in types if classes - 1 <= torch.iinfo(dtype).max)


def require_finite(logits: Tensor, names: Sequence[str]) -> None:
    """Refuse logits ``[B, K, h, w]`` that are not finite; costs one sum.

    Args:
        names: of the images of the batch.

    Raises:
        FreqKDError: NaN or infinity, with the names of the images that have it.
    """
    if torch.isfinite(logits.sum()):
        return
    wrong = (~torch.isfinite(logits)).flatten(1).sum(1).tolist()
    broken = [name for name, count in zip(names, wrong, strict=True) if count]
    if broken:  # else the numbers are finite, and only their sum is too large
        total = logits[0].numel() * len(broken)
        raise FreqKDError(
            f"the model's logits of {', '.join(broken)} are not finite",
            got=f"{sum(wrong)} of {total} numbers are NaN or infinite",
            need="undamaged weights of a training that did not diverge",
            tip="train the model again, or copy its weights again",
        )
