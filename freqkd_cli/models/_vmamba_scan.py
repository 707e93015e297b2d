"""VMamba's selective scan over a map, named as in the authors' checkpoints.

Source: Liu et al., "VMamba: Visual State Space Model", NeurIPS 2024 (arXiv 2401.10166), figure 3.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqkd_cli.features.pooling import node_matrix
from freqkd_cli.models._vmamba_sizes import GROUPS, VMambaSize
from freqkd_cli.scan.affinity import state_affinity
from freqkd_cli.scan.cross import cross_merge, cross_scan
from freqkd_cli.scan.selective import selective_scan, step_sizes

STEP_MIN, STEP_MAX = 1e-3, 0.1
"""Range of the step sizes Delta at the start of training."""


class Operands(NamedTuple):
    """The arguments of ``selective_scan``, in its order.

    The rows d are 4 orders of the inner channels.
    """

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    delta_bias: Tensor


class SS2D(nn.Module):
    """A selective scan over the map in four orders.

    In-projection, depth-wise convolution, SiLU, scan, norm, out-projection. The vanilla form
    multiplies the result by a gate from the same in-projection.
    """

    def __init__(self, dim: int, size: VMambaSize, backend: str) -> None:
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
        # Decay to 0 would give all channels one speed; mamba-ssm does the same.
        for speed in (self.A_logs, self.dt_projs_bias):
            speed.no_weight_decay = True
        self.draw()

    @torch.no_grad()
    def draw(self) -> None:
        """Initialise as the authors do.

        Delta is log-uniform in [0.001, 0.1], A = -1 ... -N in every channel (S4D-real), D = 1.
        """
        bound = self.x_proj_weight.shape[-1] ** -0.5
        self.x_proj_weight.uniform_(-bound, bound)
        self.dt_projs_weight.uniform_(-(self.rank**-0.5), self.rank**-0.5)
        logs = torch.empty_like(self.dt_projs_bias).uniform_(math.log(STEP_MIN), math.log(STEP_MAX))
        step = logs.exp()
        self.dt_projs_bias.copy_(step + torch.log(-torch.expm1(-step)))  # softplus gives the step
        orders = torch.arange(1, self.state + 1, device=self.A_logs.device)
        self.A_logs.copy_(orders.log().expand_as(self.A_logs))
        self.Ds.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self._projected(x)
        size = (x.shape[-2], x.shape[-1])
        y = selective_scan(*self.operands(x), backend=self.backend)
        y = cross_merge(y.unflatten(1, (GROUPS, -1)), size)
        y = self.out_norm(y.transpose(1, 2).to(self.out_norm.weight.dtype)).unflatten(1, size)
        return self.out_proj(y if gate is None else y * F.silu(gate))

    def _projected(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the map to scan ``[B, inner, H, W]`` and the gate ``[B, H, W, inner]`` or None."""
        x, gate = self.in_proj(x).chunk(2, dim=-1) if self.gated else (self.in_proj(x), None)
        return F.silu(self.conv2d(x.permute(0, 3, 1, 2))), gate

    def affinity(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the weight of every node of ``grid`` for every other node in this scan.

        The result is ``[B, 1, nodes, nodes]`` in float32, and its rows sum to 1.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = self._projected(x.to(self.Ds.dtype))[0]
            _, delta, A, B, C, _, bias = (t.float() for t in self.operands(x))
            size = (x.shape[-2], x.shape[-1])
            steps, pooling = step_sizes(delta, bias), node_matrix(size, grid, A)
            return state_affinity(steps, A, B, C, size=size, pooling=pooling).unsqueeze(1)

    def uncounted(self, x: Tensor) -> int:
        """Return the FLOP of the scan, unseen by torch's counter: 7 N + 5 per row and step.

        Per state: Delta A, its exponential, times h, Delta u B, their sum, times C, the sum over
        states. Per step: bias, softplus, Delta u, D u and its addition.
        """
        return x[..., 0].numel() * self.Ds.numel() * (7 * self.state + 5)

    def operands(self, x: Tensor) -> Operands:
        """Return the scan's arguments for the map ``[B, inner, H, W]`` after the activation."""
        u = cross_scan(x)
        delta, B, C = (self.x_proj_weight @ u).split([self.rank, self.state, self.state], dim=2)
        delta = self.dt_projs_weight @ delta
        A = -self.A_logs.float().exp()
        return Operands(
            u.flatten(1, 2), delta.flatten(1, 2), A, B, C, self.Ds, self.dt_projs_bias.flatten()
        )
