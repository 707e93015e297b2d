"""The parts of VMamba's backbone, named as in the authors' checkpoints, on maps ``[B, H, W, C]``.

Liu et al., "VMamba: Visual State Space Model", NeurIPS 2024 (arXiv 2401.10166), figures 3 and 5. Channels come last: norms and linear
maps, which are most of the work, then walk memory in order; only the scan wants channels first.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqkd_cli.features.graphs import node_matrix
from freqkd_cli.models._vmamba_sizes import GROUPS, Size
from freqkd_cli.scan.affinity import state_affinity
from freqkd_cli.scan.cross import cross_merge, cross_scan
from freqkd_cli.scan.selective import selective_scan, step_sizes

STEP_MIN, STEP_MAX = 1e-3, 0.1
"""Range of the step sizes Delta at the start of training."""


class Operands(NamedTuple):
    """What a scan is made of, in the order of ``selective_scan``'s arguments; the rows d are 4 orders of the inner channels."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    delta_bias: Tensor


class SS2D(nn.Module):
    """A selective scan over the map in four orders: in-projection, depth-wise convolution, SiLU, scan, norm, out-projection.

    The vanilla form multiplies the result by a gate from the same in-projection.
    """

    def __init__(self, dim: int, size: Size, backend: str) -> None:
        super().__init__()
        inner, rank = size.inner(dim), size.rank(dim)
        self.state, self.rank, self.gated, self.backend = size.state, rank, size.vanilla, backend
        self.in_proj = nn.Linear(dim, 2 * inner if size.vanilla else inner, bias=False)
        self.conv2d = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=size.vanilla)
        self.x_proj_weight = nn.Parameter(torch.empty(GROUPS, rank + 2 * size.state, inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(GROUPS, inner, rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(GROUPS, inner))
        self.A_logs = nn.Parameter(torch.empty(GROUPS * inner, size.state))
        self.Ds = nn.Parameter(torch.empty(GROUPS * inner))
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, dim, bias=False)
        for shape_of_time in (
            self.A_logs,
            self.dt_projs_bias,
        ):  # decay to 0 would pull every channel to one speed (as mamba-ssm has it)
            shape_of_time.no_weight_decay = True
        self.draw()

    @torch.no_grad()
    def draw(self) -> None:
        """The authors' start: Delta log-uniform in [0.001, 0.1], A = -1 ... -N in every channel (S4D-real), D = 1."""
        bound = self.x_proj_weight.shape[-1] ** -0.5
        self.x_proj_weight.uniform_(-bound, bound)
        self.dt_projs_weight.uniform_(-(self.rank**-0.5), self.rank**-0.5)
        step = (
            torch.empty_like(self.dt_projs_bias)
            .uniform_(math.log(STEP_MIN), math.log(STEP_MAX))
            .exp()
        )
        self.dt_projs_bias.copy_(
            step + torch.log(-torch.expm1(-step))
        )  # softplus of it is the step
        self.A_logs.copy_(
            torch.arange(1, self.state + 1, device=self.A_logs.device).log().expand_as(self.A_logs)
        )
        self.Ds.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self._projected(x)
        size = (x.shape[-2], x.shape[-1])
        y = selective_scan(*self.operands(x), backend=self.backend)
        y = cross_merge(y.unflatten(1, (GROUPS, -1)), size)
        y = self.out_norm(y.transpose(1, 2).to(self.out_norm.weight.dtype)).unflatten(1, size)
        return self.out_proj(y if gate is None else y * F.silu(gate))

    def _projected(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """What is scanned, ``[B, inner, H, W]``, and the gate, ``[B, H, W, inner]``, where there is one."""
        x, gate = self.in_proj(x).chunk(2, dim=-1) if self.gated else (self.in_proj(x), None)
        return F.silu(self.conv2d(x.permute(0, 3, 1, 2))), gate

    def affinity(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """What every node of ``grid`` takes from every other in this scan, ``[B, 1, nodes, nodes]``, float32, rows that sum to 1."""
        with torch.autocast(x.device.type, enabled=False):
            x = self._projected(x.to(self.Ds.dtype))[0]
            _, delta, A, B, C, _, bias = (t.float() for t in self.operands(x))
            size = (x.shape[-2], x.shape[-1])
            return state_affinity(
                step_sizes(delta, bias), A, B, C, size=size, pooling=node_matrix(size, grid, A)
            ).unsqueeze(1)

    def uncounted(self, x: Tensor) -> int:
        """Floating-point operations of the scan, which torch's counter does not see: 7 N + 5 for every row and step.

        Per state: Delta A, its exponential, times h, Delta u B, their sum, times C, the sum over states. Per step: bias, softplus, Delta u,
        D u and its addition.
        """
        return x[..., 0].numel() * self.Ds.numel() * (7 * self.state + 5)

    def operands(self, x: Tensor) -> Operands:
        """The scan of the map after convolution and activation, ``[B, inner, H, W]``."""
        u = cross_scan(x)
        delta, B, C = (self.x_proj_weight @ u).split([self.rank, self.state, self.state], dim=2)
        delta = self.dt_projs_weight @ delta
        A = -self.A_logs.float().exp()
        return Operands(
            u.flatten(1, 2), delta.flatten(1, 2), A, B, C, self.Ds, self.dt_projs_bias.flatten()
        )


class DropPath(nn.Module):
    """Leaves a residual branch out for some samples of a batch, and scales the others up by as much."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        kept = x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(1.0 - self.rate)
        return x * kept.div_(1.0 - self.rate)


class MLP(nn.Module):
    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, inner)
        self.fc2 = nn.Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """``x + scan(norm x)``, then ``x + MLP(norm x)`` unless vanilla."""

    def __init__(self, dim: int, size: Size, rate: float, backend: str) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.op = SS2D(dim, size, backend)
        self.drop_path = DropPath(rate)
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
    """The four cells of a 2x2 square side by side; an odd side is continued by zeros."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        return torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], dim=-1)


def stem(dim: int, vanilla: bool) -> nn.Sequential:
    """1/4 of the image; places in the sequence are those of the authors' (whose permutations are no modules of weights)."""
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


def downsample(given: int, out: int, vanilla: bool) -> nn.Sequential:
    """Half the sides, rounded up."""
    if vanilla:
        return nn.Sequential(
            PatchMerging(), nn.LayerNorm(4 * given), nn.Linear(4 * given, out, bias=False)
        )
    return nn.Sequential(nn.Identity(), Conv(given, out, 3, 2, 1), nn.Identity(), nn.LayerNorm(out))


class Stage(nn.Module):
    def __init__(self, blocks: list[Block], down: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.downsample = down


class Backbone(nn.Module):
    """Four stages at 1/4, 1/8, 1/16 and 1/32; the state dict is that of the authors' ``Backbone_VSSM``."""

    def __init__(self, size: Size, *, drop_path: float, backend: str = "auto") -> None:
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
        """``[B, 3, H, W]`` -> four maps ``[B, C, h, w]``, each after its own norm, and the affinity of the last block of asked stages.

        Args:
            graphs: numbers of stages, from 0; their affinities are ``[B, 1, N, N]`` between the N cells of the last stage's grid.
        """
        x, maps, found = images.permute(0, 2, 3, 1), [], {}
        grid = (-(-x.shape[1] // 32), -(-x.shape[2] // 32))
        if self.size.vanilla:  # its stem would drop the pixels that 4 leaves over; they are kept, beside the mean colour
            x = F.pad(x, (0, 0, 0, -x.shape[2] % 4, 0, -x.shape[1] % 4))
        x = self.patch_embed(x)
        for i, stage in enumerate(self.layers):
            last = stage.blocks[-1]
            x = stage.blocks[:-1](x)
            if i in graphs:
                found[i] = last.op.affinity(last.norm(x), grid)
            x = last(x)
            maps.append(self.get_submodule(f"outnorm{i}")(x).permute(0, 3, 1, 2))
            x = stage.downsample(x)
        return maps, found


def _draw(module: nn.Module) -> None:
    """The authors' start of linear layers; convolutions keep torch's."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
