"""Compare Haar wavelet details of two taps, at cells that the teacher's prompts select: FreeKD.

**What** ``sum over levels l of mean |M_l (D_l(P S) - D_l(T))| + mse * mean (P S - T)^2``. D_l are
the three details (horizontal, vertical, diagonal) of level l of the Haar transform. ``M_l = mean
over prompts t of sigmoid(sum over channels of p_lt s_l)`` with s_l the sum of the teacher's three
details. Without ``prompts`` all masks are 1. ``bands: all`` adds the low band of the last level as
one more term, with its own prompts.

**Why** Details are edges and texture, and they are compared where they are, not only by frequency.
The prompts pick cells that matter for the teacher's own task.

**Shapes and units** Taps ``[B, C, h, w]``, resampled to the smaller grid per axis in frequency
space. Level 1 has details of one cell. ``prompts`` is a safetensors file with one tensor
``prompts`` ``[1 + levels, number, C]``, C the teacher's channels: first those of the low band, then
those of level 1, 2 and so on. They are fitted to the teacher before the dump and are frozen. A
cache of targets also holds the masks ``[B, 1, cells]``.

**Source** FreeKD (arXiv 2311.12079), Gumpest/FreeKD, mmrazor/models/losses/freekd.py at e0874f5: 3
levels, weight 1 and 5 for the mean square. Equal to that code, given its prompts. Departures:

- no prompts by default, and no command that fits them;
- ``bands: high`` is the released code, which leaves the low band out; the paper has all bands;
- the code names its three levels cH, cV and cD. They are levels, and so they are called here;
- the paper's weights of positions and channels are not in the code, and not here;
- P has no bias, and unequal grids are matched.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from freqkd_cli.errors import RecipeError, WeightsMissing
from freqkd_cli.features.adapter import adapted
from freqkd_cli.features.loss import Grid, Loss, LossGroup
from freqkd_cli.features.taps import Tap
from freqkd_cli.losses._pair import PairLoss
from freqkd_cli.recipe.value_types import NotNegative
from freqkd_cli.spectral.fourier import resample, widened
from freqkd_cli.spectral.haar import haar_levels
from freqkd_cli.views.batch import Batch

GROUP: LossGroup = "frequency"


def build(
    *,
    student: str,
    teacher: str,
    levels: Annotated[int, Field(ge=1, le=8)] = 3,
    bands: Literal["high", "all"] = "high",
    mse: NotNegative = 5.0,
    prompts: str | None = None,
) -> Loss:
    """Build FreeKD between two taps.

    Args:
        student: tap of the student.
        teacher: tap of the teacher.
        levels: of the Haar transform.
        bands: high compares the details, all the low band too.
        mse: weight of the mean square of the whole maps.
        prompts: safetensors file of the teacher's fitted prompts; none sets all masks to 1.
    """
    return FreeKD(student, teacher, (levels, bands == "all", mse), prompts)


class FreeKD(PairLoss):
    """Made by :func:`build`.

    Its target is the teacher's map, ``map`` ``[B, C, h * w]``, and with prompts ``mask_0``
    (low band) to ``mask_L``, each ``[B, 1, cells]``.
    """

    target_arguments = ("teacher", "levels", "bands", "prompts")
    file_arguments = ("prompts",)
    prompts: Tensor | None

    def __init__(
        self, student: str, teacher: str, parts: tuple[int, bool, float], prompts: str | None
    ) -> None:
        super().__init__(student, teacher, adapted=True)
        self.levels, self.low_too, self.mse = parts
        self.file = prompts
        self.register_buffer("prompts", None, persistent=False)

    def start(self, student: Mapping[str, Tap], teacher: Mapping[str, Tap], classes: int) -> None:
        super().start(student, teacher, classes)
        if self.file is not None:
            self.prompts = _prompts(self.file, self.levels, teacher[self.teacher].channels)

    def target(
        self, teacher: Mapping[str, Tensor], batch: Batch, grids: Mapping[str, Grid]
    ) -> dict[str, Tensor]:
        x = resample(teacher[self.teacher].detach(), self.grid(grids[self.student], batch))
        return {"map": x.flatten(2)} | (self._masks(x) if self.prompts is not None else {})

    def _masks(self, x: Tensor) -> dict[str, Tensor]:
        """Return the mean over prompts of each band's masks, by name."""
        assert self.prompts is not None
        low, details = haar_levels(x, self.levels)
        sums = [low, *(detail.sum(2) for detail in details)]
        return {
            f"mask_{band}": torch.sigmoid(prompts.to(x) @ sums[band].flatten(2)).mean(1)[:, None]
            for band, prompts in enumerate(self.prompts)
            if band > 0 or self.low_too
        }

    def forward(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int
    ) -> Tensor:
        x = student[self.student]
        with torch.autocast(x.device.type, enabled=False):
            x = resample(x, self.grid((x.shape[-2], x.shape[-1]), batch))
            rows = adapted(x.flatten(2), self.adapter)
            error = rows - self.fitted(target["map"], rows)
            low, details = haar_levels(error.unflatten(2, x.shape[-2:]), self.levels)
            total = self.mse * error.square().mean()
            for band, part in enumerate((low[:, :, None], *details)):
                if band > 0 or self.low_too:
                    size = part.flatten(3).abs().mean((1, 2))
                    mask = target.get(f"mask_{band}")
                    size = size if mask is None else size * widened(mask)[:, 0].to(size.dtype)
                    total = total + size.mean()
            return total


def _prompts(file: str, levels: int, channels: int) -> Tensor:
    """Return the tensor ``prompts`` of a file, ``[1 + levels, number, channels]`` float32.

    Raises:
        WeightsMissing: there is no such file.
        RecipeError: the file has no such tensor, or one of another shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    need = f"a tensor `prompts` of shape [{1 + levels}, any number, {channels}]"
    if not Path(file).is_file():
        raise WeightsMissing("the file of prompts is missing", got=file, key="prompts")
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise RecipeError(
            f"{file} is not a safetensors file", got=str(error), need=need, key="prompts"
        ) from error
    shape = tuple(tensors["prompts"].shape) if "prompts" in tensors else None
    if shape is None or len(shape) != 3 or (shape[0], shape[2]) != (1 + levels, channels):
        got = f"shape {list(shape)}" if shape else f"tensors {', '.join(sorted(tensors))}"
        raise RecipeError(f"{file} has no fitting prompts", got=got, need=need, key="prompts")
    return tensors["prompts"].float()
