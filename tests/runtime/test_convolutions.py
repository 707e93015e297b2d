"""Convolutions in bfloat16 on this CPU are right, or the model is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqkd_cli import recipe as recipes
from freqkd_cli.errors import UsageError
from freqkd_cli.runtime import convolutions
from freqkd_cli.runtime.convolutions import require_right_in_bfloat16
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.teacher.live import LiveTeacher
from freqkd_cli.train.distillation import distill

STUDENT = """
version: 1
data: {name: scenes, size: [32, 64], length: 4, held_out: 2, workers: 0}
student: {name: segformer, channels: [8, 8, 8, 8], depths: [1, 1, 1, 1], heads: [1, 1, 1, 1]}
losses: [{name: cross_entropy}]
train: {steps: 1, batch_size: 2, precision: bfloat16}
"""


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


def test_a_teacher_is_tried_in_bfloat16_alone() -> None:
    LiveTeacher(Scrambled(8, 8, 4, 4), {}, {})
    with pytest.raises(UsageError, match="wrongly") as caught:
        LiveTeacher(nn.Sequential(Scrambled(8, 8, 4, 4)), {}, {}, dtype="bfloat16")
    assert caught.value.key == "teacher.dtype"


def test_a_student_is_tried_before_the_first_step(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(convolutions, "_is_wrong", lambda layer: True)
    with pytest.raises(UsageError, match="sequence_reduction") as caught:
        distill(recipes.loads(STUDENT), tmp_path / "run", Silent())
    assert caught.value.key == "train.precision"
    assert not any(tmp_path.iterdir())


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
