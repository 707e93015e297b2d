"""Focal loss: cross-entropy with less weight on pixels that are already right.

**What** The mean over labelled pixels of ``-(1 - p)^gamma log p``, p the softmax probability of the
label, and ``auxiliary`` times the same for every auxiliary head. With ``class_weights`` it is a
weighted mean. ``gamma`` 0 is cross-entropy.

**Why** Most pixels of a street are easy, and together they outweigh rare and hard ones.

**Shapes and units** ``logits`` ``[B, K, h, w]``, upsampled bilinearly (align_corners False) to the
labels ``[B, H, W]``; void never counts. A batch without a label gives 0. Nats.
``class_weights`` and ``class_beta`` are those of ``cross_entropy``.

**Source** Lin et al. (arXiv 1708.02002). Departures: softmax instead of one sigmoid per class, and
the sum is divided by the weights of all labelled pixels instead of the number of objects.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from freqkd_cli.features.loss import Loss, LossGroup
from freqkd_cli.losses._labels import Auxiliary, Beta, ClassWeights, PixelLoss, weighted_mean
from freqkd_cli.views.upsample import parts, upsampled

GROUP: LossGroup = "labels"


def build(
    *,
    gamma: Annotated[float, Field(ge=0, le=10)] = 2.0,
    class_weights: ClassWeights | None = None,
    class_beta: Beta = 0.9999,
    auxiliary: Auxiliary = 0.4,
) -> Loss:
    """Build the focal loss.

    Args:
        gamma: exponent of 1 - p; the larger, the less easy pixels count.
        class_weights: one number per class, or a rule: auto (the same as median), median, inverse
            or effective.
        class_beta: b of the rule ``effective``; the nearer to 1, the larger the differences.
        auxiliary: factor of every auxiliary head.
    """
    return Focal(gamma, class_weights, auxiliary)


class Focal(PixelLoss):
    """Made by :func:`build`."""

    def __init__(self, gamma: float, class_weights: ClassWeights | None, auxiliary: float) -> None:
        super().__init__(class_weights, auxiliary)
        self.gamma = gamma

    def head(self, logits: Tensor, labels: Tensor, ignore: int) -> Tensor:
        size = (labels.shape[-2], labels.shape[-1])
        losses = torch.cat(
            [
                self._each(upsampled(logits[part], size), labels[part], ignore)
                for part in parts(logits)
            ]
        )
        counted = self.counted(labels, ignore, losses.dtype)
        return weighted_mean(losses * counted, counted)

    def _each(self, logits: Tensor, labels: Tensor, ignore: int) -> Tensor:
        """Return the loss of every pixel, ``[B, H, W]``, 0 on void."""
        surprise = F.cross_entropy(logits, labels, ignore_index=ignore, reduction="none")
        # 1 - p without rounding near p = 1; a power below 1 has no finite slope at 0.
        missed = -torch.expm1(-surprise).clamp(max=-torch.finfo(surprise.dtype).tiny)
        return missed**self.gamma * surprise
