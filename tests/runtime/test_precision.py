"""Precision, memory format and device of a run."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from freqkd_cli.commands._options import Device
from freqkd_cli.errors import UsageError
from freqkd_cli.runtime import launch, processes
from freqkd_cli.runtime.precision import choose, pick_device
from freqkd_cli.runtime.processes import join

CPU = torch.device("cpu")


def test_auto_on_a_cpu_is_float32_in_channels_last():
    compute = choose(CPU, "auto", "auto")
    assert compute.dtype is torch.float32 and compute.channels_last


def test_bfloat16_on_a_cpu_is_contiguous():
    compute = choose(CPU, "bfloat16", "auto")
    assert compute.dtype is torch.bfloat16 and not compute.channels_last
    assert not choose(CPU, "float32", False).channels_last


def test_bfloat16_with_channels_last_on_a_cpu_is_refused():
    with pytest.raises(UsageError, match="wrong gradients") as caught:
        choose(CPU, "bfloat16", True)
    assert caught.value.key == "train.channels_last"


@pytest.mark.parametrize("precision", ["auto", "bfloat16", "float32"])
@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_weight_gradients_of_dilated_depthwise_convolutions_are_right(precision, dilation):
    """Compare with float64. bfloat16 in channels_last read uninitialized memory here."""
    compute = choose(CPU, precision, "auto")
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 64, 3, padding=dilation, dilation=dilation, groups=64, bias=False)
    images, gradient = torch.randn(8, 64, 24, 32), torch.randn(8, 64, 24, 32)
    exact = nn.Conv2d(64, 64, 3, padding=dilation, dilation=dilation, groups=64, bias=False)
    exact.double().load_state_dict(conv.state_dict())
    exact(images.double()).backward(gradient.double())
    for _ in range(5):
        del [torch.full((2**k,), torch.nan) for k in range(8, 22)][:]  # memory that is reused
        conv.zero_grad()
        with compute.autocast(CPU):
            features = conv(compute.layout(images))
        features.backward(gradient.to(features.dtype))
        error = (conv.weight.grad - exact.weight.grad).abs().max() / exact.weight.grad.abs().max()
        assert error < 2e-2


@pytest.mark.parametrize(
    ("cuda", "mps", "best"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_the_best_device_is_the_default_as_the_help_describes(monkeypatch, caplog, cuda, mps, best):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device(None).type == best
    assert ("mps is untested" in caplog.text) == (best == "mps")
    (option,) = Device.__metadata__
    assert option.help.endswith("the default is the first CUDA GPU, else mps, else cpu.")


def test_several_processes_never_share_mps(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(launch, "processes", lambda: 2)
    monkeypatch.setattr(processes.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(processes.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(processes.dist, "get_world_size", lambda: 2)
    assert join(None).device == CPU


def test_a_device_that_is_missing_is_refused():
    with pytest.raises(UsageError, match="no such device") as caught:
        pick_device("cuda:77")
    assert caught.value.key == "device"
