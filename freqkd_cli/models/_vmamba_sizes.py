"""The sizes of a VMamba, and the table of variants."""

from __future__ import annotations

import math
from dataclasses import dataclass

GROUPS = 4
"""Scan orders of a block; each has its own step sizes, B and C."""


@dataclass(frozen=True)
class VMambaSize:
    """One architecture.

    Attributes:
        depths, dims: blocks and channels of stage 1 to 4.
        state: N, the state size of each channel.
        ratio: inner channels of the scan per outer channel.
        drop_path: rate of stochastic depth at the last block, linear from 0 at the first.
        decoder: channels of the segmentation head.
        vanilla: the first VMamba: gated blocks without an MLP, a stem of one convolution, patch
            merging, depth-wise convolutions with bias.
    """

    depths: tuple[int, int, int, int]
    dims: tuple[int, int, int, int]
    state: int
    ratio: int
    drop_path: float
    decoder: int
    vanilla: bool = False

    def inner(self, dim: int) -> int:
        """Return the channels of the scan in a block of ``dim`` channels."""
        return self.ratio * dim

    def rank(self, dim: int) -> int:
        """Return the rank of the projection to the step sizes of a block."""
        return math.ceil(dim / 16)


_WIDE = (96, 192, 384, 768)

# Liu et al., VMamba, NeurIPS 2024, as configured in MzeroMiko/VMamba (classification/configs/vssm).
# nano and micro are this project's own.
VARIANTS: dict[str, VMambaSize] = {
    "nano": VMambaSize(
        (1, 1, 4, 1), (32, 64, 128, 256), state=1, ratio=1, drop_path=0.0, decoder=64
    ),
    "micro": VMambaSize(
        (1, 1, 4, 1), (48, 96, 192, 384), state=1, ratio=1, drop_path=0.05, decoder=96
    ),
    "tiny": VMambaSize((2, 2, 8, 2), _WIDE, state=1, ratio=1, drop_path=0.2, decoder=256),
    "tiny_s2l5": VMambaSize((2, 2, 5, 2), _WIDE, state=1, ratio=2, drop_path=0.2, decoder=256),
    "small": VMambaSize((2, 2, 15, 2), _WIDE, state=1, ratio=2, drop_path=0.3, decoder=256),
    "small_s1l20": VMambaSize((2, 2, 20, 2), _WIDE, state=1, ratio=1, drop_path=0.3, decoder=256),
    "vanilla_tiny": VMambaSize(
        (2, 2, 9, 2), _WIDE, state=16, ratio=2, drop_path=0.2, decoder=256, vanilla=True
    ),
    "vanilla_small": VMambaSize(
        (2, 2, 27, 2), _WIDE, state=16, ratio=2, drop_path=0.3, decoder=256, vanilla=True
    ),
}
