"""Layers of other libraries whose form depends on the image size, in forms that export.

While a graph is exported with free sizes, every size is a symbol. The layers here have no such
arithmetic, the same weights under the same names, and the same outputs.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from freqkd_cli.models._pooling import AveragePool


def make_exportable(model: nn.Module) -> None:
    """Replace adaptive pooling to several bins, and convolutions with TensorFlow's SAME padding."""
    from timm.layers import Conv2dSame

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Conv2dSame):
                setattr(parent, name, SameConv2d(child))
            elif isinstance(child, nn.AdaptiveAvgPool2d) and (bins := _bins(child)) > 1:
                setattr(parent, name, AveragePool(bins))


def _bins(pool: nn.AdaptiveAvgPool2d) -> int:
    """Return the bins per side; 0 where the sides differ or keep the input's size."""
    size = pool.output_size
    rows, columns = (size, size) if isinstance(size, int) else size
    return rows if rows is not None and rows == columns else 0


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding, for sides that the stride divides.

    Their padding is a constant, ``dilation * (kernel - 1) + 1 - stride`` in total, half of it
    (rounded down) at the top and left. In general it depends on the size, and its symbolic form
    grows with each layer until an export does not end.
    """

    def __init__(self, original: nn.Conv2d) -> None:
        super().__init__(
            original.in_channels,
            original.out_channels,
            original.kernel_size,
            stride=original.stride,
            dilation=original.dilation,
            groups=original.groups,
            bias=False,
            device="meta",
        )
        self.weight, self.bias = original.weight, original.bias
        self.sides = [
            side
            for axis in (1, 0)
            for side in _same_padding(
                self.kernel_size[axis], self.stride[axis], self.dilation[axis]
            )
        ]
        """Left, right, top, bottom."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.sides))


def _same_padding(kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    total = max(0, dilation * (kernel - 1) + 1 - stride)
    return total // 2, total - total // 2
