"""The parts of VMamba's backbone, named as in the authors' checkpoints, on maps ``[B, H, W, C]``.

Source: Liu et al., "VMamba: Visual State Space Model", NeurIPS 2024 (arXiv 2401.10166), figures 3
and 5. Channels come last: norms and linear maps, which are most of the work, then read memory in
order.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from freqkd_cli.models._vmamba_scan import SS2D
from freqkd_cli.models._vmamba_sizes import VMambaSize


class MLP(nn.Module):
    """Two linear maps with a GELU between them."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, inner)
        self.fc2 = nn.Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """``x + scan(norm x)``, then ``x + MLP(norm x)`` unless vanilla."""

    def __init__(self, dim: int, size: VMambaSize, rate: float, backend: str) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.op = SS2D(dim, size, backend)
        self.drop_path = StochasticDepth(rate, mode="row")
        self.mlp: MLP | None = None
        if not size.vanilla:
            self.norm2 = nn.LayerNorm(dim)
            self.mlp = MLP(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.op(self.norm(x)))
        return x if self.mlp is None else x + self.drop_path(self.mlp(self.norm2(x)))


class Conv(nn.Conv2d):
    """A convolution of maps whose channels come last."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class PatchMerging(nn.Module):
    """The four cells of a 2x2 square side by side; an odd side is padded with zeros."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        return torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], dim=-1)


def stem(dim: int, vanilla: bool) -> nn.Sequential:
    """Return the stem, which gives 1/4 of the image.

    Modules have the authors' places in the sequence, so that names of tensors agree. Identities
    stand for the authors' permutations.
    """
    if vanilla:
        return nn.Sequential(Conv(3, dim, 4, 4), nn.Identity(), nn.LayerNorm(dim))
    first, second = Conv(3, dim // 2, 3, 2, 1), Conv(dim // 2, dim, 3, 2, 1)
    return nn.Sequential(
        first,
        nn.Identity(),
        nn.LayerNorm(dim // 2),
        nn.Identity(),
        nn.GELU(),
        second,
        nn.Identity(),
        nn.LayerNorm(dim),
    )


def downsample(dim: int, out: int, vanilla: bool) -> nn.Sequential:
    """Return a module that halves the sides, rounded up."""
    if vanilla:
        linear = nn.Linear(4 * dim, out, bias=False)
        return nn.Sequential(PatchMerging(), nn.LayerNorm(4 * dim), linear)
    return nn.Sequential(nn.Identity(), Conv(dim, out, 3, 2, 1), nn.Identity(), nn.LayerNorm(out))


class Stage(nn.Module):
    """Blocks, and the downsampling to the next stage."""

    def __init__(self, blocks: list[Block], down: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.downsample = down


class Backbone(nn.Module):
    """Four stages at 1/4 to 1/32, with the state dict of the authors' ``Backbone_VSSM``."""

    def __init__(self, size: VMambaSize, *, drop_path: float, backend: str = "auto") -> None:
        super().__init__()
        self.size = size
        self.patch_embed = stem(size.dims[0], size.vanilla)
        rates = iter(torch.linspace(0, drop_path, sum(size.depths), device="cpu").tolist())
        self.layers = nn.ModuleList()
        for i, (depth, dim) in enumerate(zip(size.depths, size.dims, strict=True)):
            blocks = [Block(dim, size, next(rates), backend) for _ in range(depth)]
            down = downsample(dim, size.dims[i + 1], size.vanilla) if i < 3 else nn.Identity()
            self.layers.append(Stage(blocks, down))
        for i, dim in enumerate(size.dims):
            self.add_module(f"outnorm{i}", nn.LayerNorm(dim))
        self.apply(_draw)

    def forward(
        self, images: Tensor, graphs: Collection[int] = ()
    ) -> tuple[list[Tensor], dict[int, Tensor]]:
        """Return four maps ``[B, C, h, w]``, each after its own norm, and affinities.

        Args:
            images: ``[B, 3, H, W]``, normalised.
            graphs: numbers of stages, from 0, whose last block gives an affinity. It is ``[B, 1, N,
                N]`` between the N cells of the last stage's grid.
        """
        x, maps, affinities = images.permute(0, 2, 3, 1), [], {}
        grid = (-(-x.shape[1] // 32), -(-x.shape[2] // 32))
        if self.size.vanilla:
            # Its stem drops up to 3 rows and columns of pixels; padding with the mean color keeps
            # them.
            x = F.pad(x, (0, 0, 0, -x.shape[2] % 4, 0, -x.shape[1] % 4))
        x = self.patch_embed(x)
        for i, stage in enumerate(self.layers):
            last = stage.blocks[-1]
            x = stage.blocks[:-1](x)
            if i in graphs:
                affinities[i] = last.op.affinity(last.norm(x), grid)
            x = last(x)
            maps.append(self.get_submodule(f"outnorm{i}")(x).permute(0, 3, 1, 2))
            x = stage.downsample(x)
        return maps, affinities


def _draw(module: nn.Module) -> None:
    """Initialise linear layers as the authors do; convolutions keep torch's initialisation."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
