"""Layers of timm and torch, replaced so that a graph with free image sizes is exported."""

from __future__ import annotations

import timm
import torch

from freqkd_cli.export.export_form import ExportForm
from freqkd_cli.models import smp
from freqkd_cli.models._smp_exportable import SameConv2d

SAME = "tf_mobilenetv3_small_minimal_100"
"""A network of timm with TensorFlow's SAME padding."""


@torch.no_grad()
def test_same_padding_keeps_names_and_features() -> None:
    model = smp.build(classes=3, arch="segformer", encoder=f"tu-{SAME}").eval()
    plain = timm.create_model(SAME, features_only=True).eval()
    assert sum(isinstance(module, SameConv2d) for module in model.modules()) == 5
    plain.load_state_dict(model.net.encoder.model.state_dict())
    images = torch.rand(1, 3, 64, 96)
    replaced = model.net.encoder.model(images)
    for wanted, got in zip(plain(images), replaced, strict=True):
        assert torch.equal(wanted, got)


def test_kernels_strides_and_dilations_pad_as_in_timm() -> None:
    from timm.layers import Conv2dSame

    for kernel, stride, dilation in [(3, 2, 1), ((3, 5), (2, 1), 1), (5, 2, 2), (1, 2, 1)]:
        conv = Conv2dSame(4, 6, kernel, stride=stride, dilation=dilation, groups=2)
        replaced = SameConv2d(conv)
        x = torch.rand(2, 4, 32, 64)
        assert torch.equal(conv(x), replaced(x))
        assert replaced.weight is conv.weight
        assert replaced.bias is conv.bias


def test_same_padding_of_a_free_size_is_a_number() -> None:
    model = smp.build(classes=3, arch="segformer", encoder=f"tu-{SAME}").eval()
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    program = torch.export.export(
        ExportForm(model), (torch.rand(2, 3, 64, 96),), dynamic_shapes={"image": free}, strict=False
    )
    pads = [
        node.args[1] for node in program.graph.nodes if node.target == torch.ops.aten.pad.default
    ]
    assert len(pads) == 1 + 5
    # The first one completes the image to a multiple of 32, and its size is free.
    assert all(isinstance(side, int) for sides in pads[1:] for side in sides)
    image = torch.rand(1, 3, 70, 90)
    with torch.no_grad():
        torch.testing.assert_close(
            program.module()(image), model(image)["logits"], rtol=1e-4, atol=1e-5
        )
