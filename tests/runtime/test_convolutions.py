"""Convolutions in bfloat16 on this CPU are right, or the model is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqkd_cli.errors import UsageError
from freqkd_cli.runtime.convolutions import require_right_in_bfloat16


class Scrambled(nn.Conv2d):
    """A convolution that is wrong in bfloat16, as those of some processors are."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y.flip(-1) if x.dtype == torch.bfloat16 else y


def test_a_wrong_convolution_is_named_with_its_key() -> None:
    net = nn.Sequential(nn.Conv2d(3, 64, 3), Scrambled(64, 64, 4, 4))
    with pytest.raises(UsageError, match="'1' wrongly") as caught:
        require_right_in_bfloat16(net, "teacher.dtype")
    assert caught.value.key == "teacher.dtype" and net[1].weight.dtype == torch.float32


@torch.no_grad()
@pytest.mark.parametrize("channels", [3, 8, 16, 24, 32, 64])
@pytest.mark.parametrize("kernel", [2, 4, 8, 14, 16])
def test_what_is_not_refused_is_right(channels: int, kernel: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, 32, kernel, kernel)
    try:
        require_right_in_bfloat16(layer, "teacher.dtype")
    except UsageError:
        assert torch.cpu._is_amx_tile_supported()
        return
    for height, width in ((6, 4), (12, 16), (30, 40)):
        images = torch.randn(2, channels, height * kernel, width * kernel)
        half = F.conv2d(images.bfloat16(), layer.weight.bfloat16(), stride=kernel).float()
        exact = F.conv2d(images, layer.weight, stride=kernel)
        assert F.cosine_similarity(half.flatten(), exact.flatten(), dim=0) > 0.999
