"""Lovász-softmax: a convex surrogate of 1 - IoU.

**What** The mean over classes of the Lovász extension of the Jaccard loss, and ``auxiliary`` times
the same for every auxiliary head. For a class, the error e of a labelled pixel is 1 - p on its
pixels and p on the others, p the softmax probability of the class. With the errors sorted, largest
first, the value is the sum of e_i (J_i - J_(i-1)). J_i is 1 - IoU where the first i pixels are
wrong and the others right.

**Why** It is near to mIoU itself, which cross-entropy is not. Usually after or beside it. It sorts
the pixels once for every class: on a CPU that costs several times a cross-entropy.

**Shapes and units** ``logits`` ``[B, K, h, w]``, upsampled bilinearly (align_corners False) to the
labels ``[B, H, W]``; void never counts. ``classes: present`` takes the mean over the classes
that occur, ``all`` over all of them; then an absent class costs its largest error. IoU is that of
the batch, or with ``per_image`` that of each image, followed by a mean over the images with labels.
A batch without a label gives 0. Where a batch comes in parts (several processes,
``train.accumulate``) each part is sorted by itself, and the parts are averaged, weighted by their
numbers of images with labels. With ``per_image`` that is the value of the whole batch.

**Source** Berman, Rannen Triki and Blaschko (arXiv 1705.08790). The differences of J are computed
in closed form, so that they keep their accuracy in float32 on large batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from freqkd_cli.features.loss import Loss, LossGroup
from freqkd_cli.losses._labels import Auxiliary, LabelLoss, weighted_mean
from freqkd_cli.views.upsample import parts, upsampled

GROUP: LossGroup = "labels"


def build(
    *,
    classes: Literal["present", "all"] = "present",
    per_image: bool = False,
    auxiliary: Auxiliary = 0.4,
) -> Loss:
    """Build the Lovász-softmax loss.

    Args:
        classes: present = mean over the classes that occur in the labels; all = over all classes.
        per_image: IoU of single images instead of that of the batch.
        auxiliary: factor of every auxiliary head.
    """
    return Lovasz(classes == "present", per_image, auxiliary)


class Lovasz(LabelLoss):
    """Made by :func:`build`."""

    def __init__(self, present: bool, per_image: bool, auxiliary: float) -> None:
        super().__init__(auxiliary)
        self.present, self.per_image = present, per_image

    def head(self, logits: Tensor, labels: Tensor, ignore: int) -> Tensor:
        size = (labels.shape[-2], labels.shape[-1])
        shares = torch.cat([upsampled(logits[part], size).softmax(1) for part in parts(logits)])
        groups = (
            zip(shares, labels, strict=True) if self.per_image else [(shares.movedim(1, 0), labels)]
        )
        if logits.device.type != "cpu":
            return self._of_all(
                [(share.flatten(1), label.flatten()) for share, label in groups], ignore
            )
        values = [
            self._of_group(share.flatten(1)[:, labelled], label.flatten()[labelled])
            for share, label in groups
            if (labelled := label.flatten() != ignore).any()
        ]
        return torch.stack(values).mean() if values else logits.sum().to(shares.dtype) * 0.0

    def _of_group(self, shares: Tensor, labels: Tensor) -> Tensor:
        """Return the mean over classes for ``shares`` ``[K, N]`` and ``labels`` ``[N]``."""
        classes = labels.unique().tolist() if self.present else range(len(shares))
        return torch.stack([extension(shares[c], labels == c) for c in classes]).mean()

    def _of_all(self, groups: Sequence[tuple[Tensor, Tensor]], ignore: int) -> Tensor:
        """Return the mean over groups with labels, with all classes of all of them computed.

        For a GPU, which alone has the classes that occur and the number of labelled pixels, and is
        not waited for. Void pixels come last and count nothing.
        """
        values, groups_with_labels = [], []
        for shares, labels in groups:
            known = labels != ignore
            truth = labels == torch.arange(len(shares), device=labels.device)[:, None]
            each = extension(shares, truth, known)
            counted = truth.any(1) if self.present else known.any().expand(len(shares))
            values.append(weighted_mean(each * counted, counted.to(each.dtype)))
            groups_with_labels.append(known.any())
        return weighted_mean(torch.stack(values), torch.stack(groups_with_labels).to(shares.dtype))


def extension(shares: Tensor, truth: Tensor, known: Tensor | None = None) -> Tensor:
    """Return the Lovász extension of the Jaccard loss of each class, ``[...]``.

    Args:
        shares: ``[..., N]``, the probability of the class.
        truth: ``[..., N]`` bool, whether a pixel is of the class.
        known: ``[N]`` bool, which pixels are labelled; all of them by default.
    """
    errors = torch.where(truth, 1 - shares, shares)
    if known is not None:
        errors = torch.where(known, errors, -1.0)
    order = errors.detach().argsort(descending=True, stable=True)
    truth = truth.gather(-1, order)
    both = truth.sum(-1, keepdim=True) - truth.cumsum(-1)
    union = truth.sum(-1, keepdim=True) + (~truth).cumsum(-1)
    # J_i - J_(i-1): a pixel of the class leaves the intersection, another one joins the union. The
    # first pixel of an empty union is all of it.
    joined = both.to(shares.dtype) / union / (union - 1).clamp(min=1)
    joined = torch.where(union == 1, 1.0, joined)
    # A sum and no dot product, whose rounding grows with the number of pixels.
    errors = (
        errors.gather(-1, order).clamp(min=0.0) if known is not None else errors.gather(-1, order)
    )
    return (errors * torch.where(truth, 1 / union.to(shares.dtype), joined)).sum(-1)
