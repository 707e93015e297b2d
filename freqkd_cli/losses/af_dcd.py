"""Recover the teacher's features from masked ones, and contrast its patches and channels.

**What** ``feature_weight * |G(m P S) - T|^2 + contrast_weight * L_contrast``, both summed over an
image and averaged over the batch, as in Af-DCD. P is a trained 1x1 adapter where the channels
differ, m a random mask that hides ``mask_ratio`` of the cells, and G a trained 3x3 convolution,
ReLU, 3x3 convolution.

``L_contrast`` compares G(m P S) with T after a max pooling by ``pool``. Both are cut into
``patch`` x ``patch`` cells and ``groups`` groups of channels. A sample is one cell and group. Its
positive is the teacher's sample of the same place. Its negatives are the teacher's samples of the
other groups at all cells of the patch. L is the cross-entropy of the positive, with -|difference|_1
over ``temperature`` as scores, summed over groups and averaged over cells.

**Why** The student has to predict hidden features from their surroundings. The contrast keeps apart
what the teacher's channels and places hold, without augmented copies of the image.

**Shapes and units** Taps ``[B, C, h, w]``. Both sides are resampled to the smaller grid per axis in
frequency space. The first term grows with C h w. Rows and columns that do not fill a patch are left
out of the contrast. Padded cells take part on both sides alike. The mask is drawn per view
and step. A cache of targets holds the teacher's map.

**Source** Fan et al., "Augmentation-free Dense Contrastive Knowledge Distillation for Efficient
Semantic Segmentation", NeurIPS 2023. Equal to the authors' code (OSVAI/Af-DCD at 5b086a7,
``losses/ocmgd.py``) with its defaults; its training scripts set other weights: 2e-6 and 0.005 for
Cityscapes, 8e-6 and 0.01 for CamVid. Departures: equal channels need no adapter, where the code
fails; the code crops CamVid to multiples of the patch and fails on other sizes; its larger
projector and its fixed mask are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from freqkd_cli.errors import RecipeError
from freqkd_cli.features.keyed_noise import new_key
from freqkd_cli.features.loss import Grid, Loss, LossGroup
from freqkd_cli.features.taps import Tap
from freqkd_cli.losses._convolution import Generation, shown_cells
from freqkd_cli.losses._pair import TeacherMapLoss
from freqkd_cli.losses._part_weights import require_a_part
from freqkd_cli.recipe.value_types import Count, NotNegative, Positive
from freqkd_cli.registry import flattened
from freqkd_cli.spectral.fourier import common_grid, resample
from freqkd_cli.views.batch import Batch

GROUP: LossGroup = "features"

PART = 32
"""Patches that are contrasted at once."""

LEAST = -80.0
"""Least score relative to the greatest: exp of less is a denormal number, ten times as slow."""


@dataclass(frozen=True)
class Contrast:
    """How samples are made and compared; every field is a key of the recipe."""

    temperature: Positive = 0.07
    groups: Annotated[int, Field(ge=2, le=10**9)] = 16
    pool: Count = 4
    patch: Count = 4


@flattened
def build(
    *,
    student: str,
    teacher: str,
    feature_weight: NotNegative = 4e-5,
    contrast_weight: NotNegative = 1e-3,
    mask_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.75,
    contrast: Contrast,
) -> Loss:
    """Build Af-DCD between two taps; the top of the file explains every key.

    Args:
        student: tap of the student.
        teacher: tap of the teacher.
        feature_weight: weight of the squared differences.
        contrast_weight: weight of the contrast; 0 leaves it out.
        mask_ratio: share of the student's cells that are hidden.
        temperature: of the contrast.
        groups: groups of channels; they have to divide the teacher's channels.
        pool: side of the max pooling before the contrast; 1 = none.
        patch: side of a patch, in pooled cells.

    Raises:
        RecipeError: both weights are 0.
    """
    require_a_part("af_dcd", feature_weight=feature_weight, contrast_weight=contrast_weight)
    return DenseContrast(
        (student, teacher), (feature_weight, contrast_weight), mask_ratio, contrast
    )


class DenseContrast(TeacherMapLoss):
    """Made by :func:`build`."""

    key: Tensor

    def __init__(
        self,
        taps: tuple[str, str],
        weights: tuple[float, float],
        mask_ratio: float,
        contrast: Contrast,
    ) -> None:
        super().__init__(*taps)
        self.feature_weight, self.contrast_weight = weights
        self.mask_ratio, self.contrast = mask_ratio, contrast
        self.generation: Generation | None = None

    def start(self, student: Mapping[str, Tap], teacher: Mapping[str, Tap], classes: int) -> None:
        super().start(student, teacher, classes)
        self.register_buffer("key", new_key())
        own, channels = student[self.student].channels, teacher[self.teacher].channels
        if self.contrast_weight > 0:
            self._check_groups(channels)
        self.generation = Generation(own, channels)

    def _check_groups(self, channels: int) -> None:
        divisors = [n for n in range(2, channels + 1) if channels % n == 0]
        groups = self.contrast.groups
        if groups not in divisors:
            nearest = min(divisors, key=lambda n: abs(n - groups), default=0)
            raise RecipeError(
                f"af_dcd: groups has to divide the channels of the teacher's {self.teacher!r}",
                got=f"{groups} groups of {channels} channels",
                need=f"one of {', '.join(map(str, divisors))}" if nearest else "a wider tap",
                tip=f"groups: {nearest}" if nearest else "contrast_weight: 0",
                key="groups",
            )

    def check_grids(self, student: Mapping[str, Grid], teacher: Mapping[str, Grid]) -> None:
        grid = common_grid(student[self.student], teacher[self.teacher])
        need = self.contrast.pool * self.contrast.patch
        if self.contrast_weight > 0 and min(grid) < need:
            raise RecipeError(
                f"af_dcd: {self.student!r} and {self.teacher!r} are smaller than a patch",
                got=f"a grid of {grid[0]}x{grid[1]} cells",
                need=f"at least {need}x{need}: pool {self.contrast.pool} times patch "
                f"{self.contrast.patch}",
                tip="a finer tap, or a smaller pool",
                key="pool",
            )

    def forward(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int
    ) -> Tensor:
        x = student[self.student]
        assert self.teacher_tap is not None, "start() comes first"
        with torch.autocast(x.device.type, enabled=False):
            grid = self.grid((x.shape[-2], x.shape[-1]), batch)
            x = self.generated(resample(x, grid), batch, step)
            teacher = self.fitted(target["map"], x.flatten(2), self.teacher_tap.channels)
            teacher = teacher.unflatten(2, grid)
            total = self.feature_weight * (x - teacher).square().sum() / len(x)
            if self.contrast_weight > 0:
                total = total + self.contrast_weight * contrasted(x, teacher, self.contrast)
            return total

    def generated(self, x: Tensor, batch: Batch, step: int) -> Tensor:
        """Return the student's map ``[B, Cs, h, w]`` as ``[B, Ct, h, w]``, from its shown cells."""
        assert self.generation is not None, "start() comes first"
        shown = None
        if self.mask_ratio > 0:
            shown = shown_cells(self.key, batch, step, x, self.mask_ratio)
        return self.generation(x, shown)


def contrasted(student: Tensor, teacher: Tensor, contrast: Contrast) -> Tensor:
    """Return the cross-entropy of each sample's positive, summed over groups, the mean over cells.

    Args:
        student, teacher: ``[B, C, h, w]``.
    """
    own, other = (_samples(x, contrast) / contrast.temperature for x in (student, teacher))
    group = torch.arange(own.shape[1], device=own.device) % contrast.groups
    itself = torch.eye(len(group), dtype=torch.bool, device=own.device)
    excluded = (group[:, None] == group) & ~itself
    total = _Entropy.apply(own, other, excluded)
    return total / (own.shape[0] * own.shape[1]) * contrast.groups


class _Entropy(torch.autograd.Function):
    """The sum of the cross-entropies of all samples, ``[P, n, C]`` of both sides, part by part.

    The gradient is made in the forward pass, while the scores of a part are there: all of them
    would be kept and walked over again, which takes twice the time.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, student: Tensor, teacher: Tensor, excluded: Tensor) -> Tensor:
        total, gradients = student.new_zeros(()), []
        for own, other in zip(student.split(PART), teacher.split(PART), strict=True):
            with torch.enable_grad():
                own = own.detach().requires_grad_(True)
                distances = torch.cdist(own, other, p=1)
            scores = distances.detach().neg()
            positives = scores.diagonal(dim1=1, dim2=2)
            total -= positives.sum()
            scores.masked_fill_(excluded, -torch.inf)
            most = scores.amax(-1, keepdim=True)
            shares = scores.sub_(most).clamp_(min=LEAST).exp_()
            sums = shares.sum(-1, keepdim=True)
            total += most.sum() + sums.log().sum()
            falling = shares.div_(sums).neg_()  # how the entropy falls with the distances
            falling.diagonal(dim1=1, dim2=2).add_(1.0)
            gradients += torch.autograd.grad(distances, own, falling)
        ctx.save_for_backward(torch.cat(gradients))
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (saved,) = ctx.saved_tensors
        return saved * gradient, None, None


def _samples(x: Tensor, contrast: Contrast) -> Tensor:
    """Return the samples of each patch, ``[patches of the batch, cells * groups, C / groups]``."""
    x = F.max_pool2d(x, contrast.pool) if contrast.pool > 1 else x
    size, groups = contrast.patch, contrast.groups
    rows, columns = x.shape[-2] // size, x.shape[-1] // size
    x = x[..., : rows * size, : columns * size]
    x = x.reshape(len(x), groups, -1, rows, size, columns, size)
    return x.permute(0, 3, 5, 4, 6, 1, 2).reshape(-1, size * size * groups, x.shape[2])
