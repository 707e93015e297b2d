"""mmsegmentation's SegFormer: its names and its decoder are read, with equal outputs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import freqkd_cli
from freqkd_cli.build.saved import save_model
from freqkd_cli.errors import WeightsMissing
from freqkd_cli.models import segformer

WIDTHS, HEADS, DEPTHS, REDUCTIONS = (8, 16, 24, 32), (1, 2, 3, 4), (1, 2, 1, 1), (8, 4, 2, 1)


# --- a network with the names and the arithmetic of mmsegmentation ---


class Projection(nn.Module):
    """A convolution with a norm, and with an activation where ``active``."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 1, bias=False)
        self.bn = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu()


class Patches(nn.Module):
    def __init__(self, before: int, after: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(before, after, kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(after, eps=1e-6)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        if reduction > 1:
            self.sr = nn.Conv2d(width, width, reduction, reduction)
            self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        keys = tokens
        if hasattr(self, "sr"):
            grid = tokens.transpose(1, 2).unflatten(2, size)
            keys = self.norm(self.sr(grid).flatten(2).transpose(1, 2))
        return self.attn(tokens, keys, keys, need_weights=False)[0]


class MixedMLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = 4 * width
        self.layers = nn.Sequential(
            nn.Conv2d(width, hidden, 1),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden),
            nn.GELU(),
            nn.Dropout(0.0),
            nn.Conv2d(hidden, width, 1),
            nn.Dropout(0.0),
        )


class Block(nn.Module):
    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads, reduction)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.ffn = MixedMLP(width)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens), size)
        grid = self.norm2(tokens).transpose(1, 2).unflatten(2, size)
        return tokens + self.ffn.layers(grid).flatten(2).transpose(1, 2)


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        before = 3
        for i, width in enumerate(WIDTHS):
            kernel, stride = (7, 4) if i == 0 else (3, 2)
            blocks = [Block(width, HEADS[i], REDUCTIONS[i]) for _ in range(DEPTHS[i])]
            stage = [
                Patches(before, width, kernel, stride),
                nn.ModuleList(blocks),
                nn.LayerNorm(width, eps=1e-6),
            ]
            self.layers.append(nn.ModuleList(stage))
            before = width

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for patches, blocks, norm in self.layers:
            x = patches.projection(x)
            size = tuple(x.shape[-2:])
            tokens = patches.norm(x.flatten(2).transpose(1, 2))
            for block in blocks:
                tokens = block(tokens, size)
            x = norm(tokens).transpose(1, 2).unflatten(2, size)
            maps.append(x)
        return maps


class Head(nn.Module):
    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.conv_seg = nn.Conv2d(width, rows, 1)
        self.convs = nn.ModuleList(Projection(c, width) for c in WIDTHS)
        self.fusion_conv = Projection(4 * width, width)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        size = maps[0].shape[-2:]
        parts = [
            F.interpolate(conv(x), size=size, mode="bilinear", align_corners=False)
            for conv, x in zip(self.convs, maps, strict=True)
        ]
        fused = self.fusion_conv(torch.cat(parts, dim=1))
        return fused, self.conv_seg(fused)


class Reference(nn.Module):
    def __init__(self, rows: int = 3, width: int = 12) -> None:
        super().__init__()
        self.backbone, self.decode_head = Backbone(), Head(rows, width)

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        maps = self.backbone(images)
        return (maps, *self.decode_head(maps))


def reference(rows: int = 3) -> Reference:
    torch.manual_seed(0)
    net = Reference(rows)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
    return net.eval()


@pytest.fixture(scope="module")
def net() -> Reference:
    return reference()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(2, 3, 97, 130, generator=torch.Generator().manual_seed(1))


def file_of(path: Path, net: nn.Module, edit: Callable[[str], str] = str, **more: Tensor) -> str:
    state = {edit(key): value for key, value in net.state_dict().items()} | more
    torch.save({"meta": {"epoch": 3}, "state_dict": state, "optimizer": {}}, path)
    return str(path)


# --- the same outputs ---


@torch.no_grad()
def test_outputs_are_those_of_mmsegmentation(
    tmp_path: Path, net: Reference, images: Tensor
) -> None:
    model = segformer.build(classes=9, weights=file_of(tmp_path / "net.pth", net)).eval()
    maps, decoder, logits = net(model.normalise(images))
    outputs = model(images, ["stage1", "stage2", "stage3", "stage4", "decoder"])
    assert model.classes == 3 and model.recipe_arguments["decoder_style"] == "conv"
    for i, stage in enumerate(maps, start=1):
        torch.testing.assert_close(outputs[f"stage{i}"], stage, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(outputs["decoder"], decoder, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(outputs["logits"], logits, atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_mmsegmentation(
    tmp_path: Path, net: Reference, images: Tensor
) -> None:
    model = segformer.build(
        classes=9, weights=file_of(tmp_path / "net.pth", net), drop_path=0, dropout=0
    ).train()
    twin = reference().train()
    twin(model.normalise(images))[2].square().mean().backward()
    model(images)["logits"].square().mean().backward()
    for i in range(4):
        own = model.net.decode_head.projections[i].conv.weight.grad
        torch.testing.assert_close(
            own, twin.decode_head.convs[i].conv.weight.grad, atol=1e-5, rtol=1e-3
        )
    fused = model.net.decode_head.linear_fuse.weight.grad
    expected = torch.cat(twin.decode_head.fusion_conv.conv.weight.grad.chunk(4, 1)[::-1], 1)
    torch.testing.assert_close(fused, expected, atol=1e-5, rtol=1e-3)


@torch.no_grad()
def test_a_trained_folder_keeps_the_decoder(tmp_path: Path, net: Reference, images: Tensor) -> None:
    model = segformer.build(classes=9, weights=file_of(tmp_path / "net.pth", net)).eval()
    save_model(tmp_path / "run", model, id2label={0: "road", 1: "car", 2: "sky"})
    loaded = freqkd_cli.load(tmp_path / "run")
    assert torch.equal(loaded(images)["logits"], model(images)["logits"])
    assert loaded.id2label == {0: "road", 1: "car", 2: "sky"}
    again = segformer.build(classes=9, weights=str(tmp_path / "run")).eval()
    assert torch.equal(again(images)["logits"], model(images)["logits"])


def test_transformers_does_not_take_such_a_folder_for_its_own(
    tmp_path: Path, net: Reference
) -> None:
    from transformers import AutoConfig

    save_model(
        tmp_path, segformer.build(classes=9, weights=file_of(tmp_path / "net.pth", net)).eval()
    )
    with pytest.raises(ValueError, match="segformer_conv_decoder"):
        AutoConfig.from_pretrained(tmp_path)


# --- what the names may look like ---


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["module.", "model.", "ema."])
def test_prefixes_and_other_tensors_are_left_out_with_a_line(
    tmp_path: Path,
    net: Reference,
    images: Tensor,
    prefix: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    more = {"auxiliary_head.conv_seg.weight": torch.zeros(3, 8, 1, 1)}
    path = file_of(tmp_path / "net.pth", net, lambda key: prefix + key, **more)
    with caplog.at_level(logging.WARNING):
        model = segformer.build(classes=9, weights=path).eval()
    torch.testing.assert_close(
        model(images)["logits"], net(model.normalise(images))[2], atol=1e-5, rtol=1e-5
    )
    assert "left out 1 tensor that a SegFormer does not have (" in caplog.text


def test_a_new_head_keeps_the_decoder_and_a_backbone_alone_starts_one(
    tmp_path: Path, net: Reference, images: Tensor
) -> None:
    whole = segformer.build(classes=5, weights=file_of(tmp_path / "a.pth", net), head="new")
    head = net.decode_head
    assert whole.classes == 5 and len(whole.net.decode_head.classifier.weight) == 5
    assert torch.equal(whole.net.decode_head.projections[2].bn.weight, head.convs[2].bn.weight)
    for name, prefix in (("b.pth", ""), ("c.pth", "backbone.")):
        path = file_of(tmp_path / name, net.backbone, lambda key, prefix=prefix: prefix + key)
        encoder = segformer.build(classes=5, weights=path, head="new").eval()
        assert "decoder_style" not in encoder.recipe_arguments
        with torch.no_grad():
            stage = encoder(images, ["stage4"])["stage4"]
            expected = net.backbone(encoder.normalise(images))[3]
        torch.testing.assert_close(stage, expected, atol=1e-3, rtol=1e-3)  # another epsilon
        with pytest.raises(WeightsMissing, match="no segmentation head") as caught:
            segformer.build(classes=5, weights=path)
        assert "head=new" in caught.value.tip


def test_another_decoder_on_a_fitting_backbone_is_named(
    tmp_path: Path, net: Reference, caplog: pytest.LogCaptureFixture
) -> None:
    state = {f"backbone.{key}": x for key, x in net.backbone.state_dict().items()}
    state |= {"decode_head.psp_modules.0.1.conv.weight": torch.zeros(8, 32, 1, 1)}
    state |= {"decode_head.conv_seg.weight": torch.zeros(3, 8, 1, 1)}
    torch.save({"state_dict": state}, tmp_path / "upernet.pth")
    weights = str(tmp_path / "upernet.pth")
    with pytest.raises(WeightsMissing, match="its decoder is not that of this SegFormer") as caught:
        segformer.build(classes=3, weights=weights)
    assert "head=new" in caught.value.tip and "psp_modules" in caught.value.got
    with caplog.at_level(logging.WARNING):
        model = segformer.build(classes=3, weights=weights, head="new")
    assert "is left out; a new one starts" in caplog.text
    assert torch.equal(
        model.net.segformer.stages[3].layer_norm.weight, net.backbone.layers[3][2].weight
    )


def test_an_incomplete_file_is_refused(tmp_path: Path, net: Reference) -> None:
    state = net.state_dict()
    del state["backbone.layers.1.1.0.ffn.layers.1.bias"]
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(WeightsMissing, match="1 missing"):
        segformer.build(classes=3, weights=str(tmp_path / "net.pth"))


@torch.no_grad()
def test_one_row_is_two_classes(tmp_path: Path, images: Tensor) -> None:
    single = reference(rows=1)
    model = segformer.build(classes=9, weights=file_of(tmp_path / "one.pth", single)).eval()
    assert (model.classes, model.id2label) == (2, {0: "background", 1: "foreground"})
    logits = model(images)["logits"]
    expected = single(model.normalise(images))[2]
    torch.testing.assert_close(logits[:, 1:] - logits[:, :1], expected, atol=1e-5, rtol=1e-5)
