"""Soft Dice loss: the overlap of every class, whatever its size.

**What** The mean over classes of ``1 - (2 I + s) / (P + G + s)``, and ``auxiliary`` times the same
for every auxiliary head. Over labelled pixels, P is the sum of the softmax probability of the
class, G the number of pixels of the class, I the sum of that probability on them; s is ``smooth``.
On hard predictions it is 1 - F1.

**Why** A small class counts as much as a large one, as in mIoU. Usually added to cross-entropy.

**Shapes and units** ``logits`` ``[B, K, h, w]``, upsampled bilinearly (align_corners False) to the
labels ``[B, H, W]``; void never counts. ``classes: present`` takes the mean over the classes
that occur, ``all`` over all of them. The sums run over the batch, or with ``per_image`` over each
image, followed by a mean over the images with labels. A batch without a label gives 0. Where a
batch comes in parts (several processes, ``train.accumulate``) each part has sums of its own, and
the parts are averaged, weighted by their numbers of images with labels. With ``per_image`` that
is the value of the whole batch.

**Source** Milletari et al., V-Net (arXiv 1606.04797). Departure: P and G are sums, not sums of
squares, as is usual for softmax.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from freqkd_cli.features.loss import Loss, LossGroup
from freqkd_cli.losses._labels import Auxiliary, LabelLoss, mean_over_classes
from freqkd_cli.recipe.value_types import NotNegative
from freqkd_cli.views.upsample import parts, upsampled

GROUP: LossGroup = "labels"


def build(
    *,
    smooth: NotNegative = 0.0,
    classes: Literal["present", "all"] = "present",
    per_image: bool = False,
    auxiliary: Auxiliary = 0.4,
) -> Loss:
    """Build the Dice loss.

    Args:
        smooth: added to both sides of the fraction, in pixels.
        classes: present = mean over the classes that occur in the labels; all = over all classes.
        per_image: overlaps of single images instead of those of the batch.
        auxiliary: factor of every auxiliary head.
    """
    return Dice(smooth, classes == "present", per_image, auxiliary)


class Dice(LabelLoss):
    """Made by :func:`build`."""

    def __init__(self, smooth: float, present: bool, per_image: bool, auxiliary: float) -> None:
        super().__init__(auxiliary)
        self.smooth, self.present, self.per_image = smooth, present, per_image

    def head(self, logits: Tensor, labels: Tensor, ignore: int) -> Tensor:
        sums = [_sums(logits[part], labels[part], ignore) for part in parts(logits)]
        both, predicted, truth = (torch.cat(each) for each in zip(*sums, strict=True))
        if not self.per_image:
            both, predicted, truth = (
                each.sum(0, keepdim=True) for each in (both, predicted, truth)
            )
        whole = predicted + truth + self.smooth
        score = (2 * both + self.smooth) / whole.clamp(min=torch.finfo(whole.dtype).tiny)
        return mean_over_classes(1 - score, truth, present=self.present)


def _sums(logits: Tensor, labels: Tensor, ignore: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return I, P and G of every image and class, ``[B, K]`` each."""
    shares = upsampled(logits, (labels.shape[-2], labels.shape[-1])).softmax(1)
    numbers = torch.arange(shares.shape[1], device=labels.device).view(-1, 1, 1)
    of_class = labels.unsqueeze(1) == numbers
    labelled = (labels != ignore).unsqueeze(1)
    return tuple(each.sum((-2, -1)) for each in (shares * of_class, shares * labelled, of_class))  # type: ignore[return-value]
