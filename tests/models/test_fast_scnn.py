"""Fast-SCNN: the paper's number of parameters, its table of shapes, and pooling that exports."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from freqkd_cli.models import fast_scnn
from freqkd_cli.models._pooling import PoolingBranch, average_pool, averaging_matrix


def convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [part for part in module.modules() if isinstance(part, nn.Conv2d)]


def test_convolutions_have_the_papers_number_of_weights() -> None:
    model = fast_scnn.build(classes=19)
    weights = sum(part.weight.numel() for part in convolutions(model))
    biases = sum(part.bias.numel() for part in convolutions(model) if part.bias is not None)
    assert (weights, biases, weights + biases) == (1_114_096, 275, 1_114_371)


def test_an_auxiliary_head_has_the_known_number_of_weights() -> None:
    plain, heads = fast_scnn.build(classes=19), fast_scnn.build(classes=19, auxiliary=True)
    assert sum(p.numel() for p in heads.auxiliary["aux1"].parameters()) == 19_123
    assert {key for key in heads.state_dict() if not key.startswith("auxiliary.")} == set(
        plain.state_dict()
    )


@torch.no_grad()
def test_shapes_of_table_1_at_an_eighth_of_the_papers_size() -> None:
    model = fast_scnn.build(classes=19).eval()
    outputs = model(
        torch.rand(1, 3, 128, 256), ["stage1", "ltd", "encoder16", "encoder", "decoder"]
    )
    assert {name: tuple(x.shape[1:]) for name, x in outputs.items()} == {
        "stage1": (48, 32, 64),
        "ltd": (64, 16, 32),
        "encoder16": (64, 8, 16),
        "encoder": (128, 4, 8),
        "decoder": (128, 16, 32),
        "logits": (19, 16, 32),
    }


def test_as_in_the_paper_and_not_as_in_copies() -> None:
    model = fast_scnn.build(classes=19)
    separable = model.learning_to_downsample[1]
    kinds = [type(part) for part in separable]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.Conv2d, nn.BatchNorm2d, nn.ReLU], (
        "no activation between the two halves"
    )
    assert model.fusion.smooth[0].dilation == (4, 4)
    assert model.learning_to_downsample[0][0].padding == (1, 1)


@pytest.mark.parametrize(("width", "channels"), [(0.5, 64), (0.75, 96), (1.0, 128), (1.5, 192)])
def test_width_scales_every_channel(width: float, channels: int) -> None:
    model = fast_scnn.build(classes=4, width=width).eval()
    assert {tap.name: tap.channels for tap in fast_scnn.taps(classes=4, width=width)}[
        "encoder"
    ] == channels
    assert model(torch.rand(1, 3, 64, 64), ["encoder"])["encoder"].shape == (1, channels, 2, 2)
    assert all(
        part.out_channels % 8 == 0
        for part in convolutions(model)
        if part.out_channels != 4 and part.kernel_size != (1, 1)
    )


def test_auxiliary_logits_are_for_training_alone() -> None:
    model = fast_scnn.build(classes=5, auxiliary=True)
    images = torch.rand(2, 3, 96, 128)
    outputs = model(images, ["aux1", "aux2"])
    assert outputs["aux1"].shape == (2, 5, 12, 16)
    assert outputs["aux2"].shape == (2, 5, 3, 4)
    assert set(model(images)) == {"logits"}
    assert set(model.eval()(images, ["aux1", "aux2"])) == {"logits"}


def test_a_last_batch_of_one_can_be_trained_on() -> None:
    model = fast_scnn.build(classes=3).train()
    loss = model(torch.rand(1, 3, 64, 96))["logits"].square().mean()
    loss.backward()
    assert torch.isfinite(loss)
    assert model.pyramid.branches[0].conv.weight.grad is not None


@pytest.mark.parametrize("bins", fast_scnn.BINS)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 5), (6, 8), (7, 13), (32, 64)])
def test_averaging_matrices_are_adaptive_pooling(size: tuple[int, int], bins: int) -> None:
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    by_matrix = (
        averaging_matrix(size[0], bins, x) @ x @ averaging_matrix(size[1], bins, x).transpose(0, 1)
    )
    torch.testing.assert_close(by_matrix, F.adaptive_avg_pool2d(x, bins), atol=1e-6, rtol=0)


class _Pools(nn.Module):
    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [average_pool(x, bins) for bins in fast_scnn.BINS]


@pytest.mark.parametrize(
    ("processes", "training", "bins", "images", "calls"),
    [
        (2, True, 1, 1, 1),
        (1, True, 1, 1, 0),
        (1, True, 1, 2, 1),
        (1, True, 2, 1, 1),
        (1, False, 1, 1, 1),
    ],
)
def test_a_synchronised_norm_takes_the_values_of_all_processes(
    monkeypatch, processes: int, training: bool, bins: int, images: int, calls: int
) -> None:
    """With one image per process it used the running statistics. The norm refuses CPU tensors."""
    inputs: list[torch.Tensor] = []
    monkeypatch.setattr(nn.SyncBatchNorm, "forward", lambda norm, x: inputs.append(x) or x + 3)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: processes > 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group=None: processes)
    plain = PoolingBranch(4, 2, bins)
    branch = nn.SyncBatchNorm.convert_sync_batchnorm(plain).train(training)
    x = torch.rand(images, 4, 8, 8)
    y, convolved = branch(x), branch.conv(average_pool(x, bins))
    assert len(inputs) == calls
    expected = convolved + 3 if calls else convolved / (1 + branch.norm.eps) ** 0.5
    torch.testing.assert_close(y, F.relu(expected))


def test_pooling_exports_with_sizes_that_are_symbols() -> None:
    free = torch.export.Dim.DYNAMIC
    program = torch.export.export(
        _Pools(),
        (torch.randn(2, 3, 8, 12),),
        dynamic_shapes={"x": {0: free, 2: free, 3: free}},
        strict=False,
    )
    assert "adaptive_avg_pool2d" not in str(program.graph)
    for size in ((1, 3, 7, 9), (3, 3, 4, 31), (2, 3, 5, 2)):
        x = torch.randn(size)
        for pooled, bins in zip(program.module()(x), fast_scnn.BINS, strict=True):
            torch.testing.assert_close(pooled, F.adaptive_avg_pool2d(x, bins), atol=1e-6, rtol=0)
