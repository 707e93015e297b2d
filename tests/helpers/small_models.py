"""Three small networks as their own libraries build them, and what they compute."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

NAMES = ("background", "road", "car")
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
SIZES = {
    "hidden_sizes": [16, 32, 48, 64],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 2, 3, 4],
    "decoder_hidden_size": 32,
}
SECTIONS = {
    "segformer": "name: segformer, channels: [16, 32, 48, 64], depths: [1, 1, 1, 1], "
    "heads: [1, 2, 3, 4], decoder: 32",
    "fpn": "name: smp, arch: fpn, encoder: resnet18",
    "unet": "name: smp, arch: unet, encoder: resnet18",
    "fast_scnn": "name: fast_scnn, width: 0.25",
}
"""Model -> its keys in a recipe, for files without a description."""


def network(kind: str, seed: int = 0, classes: int = 3, **more: Any) -> nn.Module:
    """Return a network with random weights and running statistics, in eval mode."""
    torch.manual_seed(seed)
    net = _fresh(kind, classes, more)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        for name, buffer in net.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return net.eval()


@lru_cache(maxsize=32)
def shared(kind: str, seed: int = 0) -> nn.Module:
    """Return a network that no one may change."""
    return network(kind, seed)


def _fresh(kind: str, classes: int, more: Mapping[str, Any]) -> nn.Module:
    if kind == "segformer":
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        names = dict(enumerate(NAMES[-classes:]))
        known = {"id2label": names, "label2id": {name: k for k, name in names.items()}}
        return SegformerForSemanticSegmentation(SegformerConfig(**{**SIZES, **known, **more}))
    if kind == "fast_scnn":
        from freqkd_cli.models import fast_scnn

        return fast_scnn.build(classes=classes, width=0.25)
    import segmentation_models_pytorch as library

    options = {"encoder_name": "resnet18", "encoder_weights": None, "classes": classes, **more}
    return library.create_model(kind, **options)


@torch.no_grad()
def logits(net: nn.Module, images: Tensor) -> Tensor:
    """Return a network's logits before its last upsampling, of RGB images in [0, 1]."""
    if type(net).__module__.startswith("freqkd_cli"):
        return net(images)["logits"]
    pixels = (images - MEAN) / STD
    if hasattr(net, "segmentation_head"):
        return net.segmentation_head[0](net.decoder(net.encoder(pixels)))
    return net(pixels).logits


def images() -> Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(5))


class MMSegmentationHead(nn.Module):
    """The head of SegFormer in mmsegmentation: a convolution, norm and ReLU per stage and once."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = [encoder]
        torch.manual_seed(7)
        width = SIZES["decoder_hidden_size"]
        self.convs = nn.ModuleList(_unit(channels, width) for channels in SIZES["hidden_sizes"])
        self.fusion_conv = _unit(4 * width, width)
        self.conv_seg = nn.Conv2d(width, 3, 1)
        for name, buffer in self.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
        self.eval()

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        stages = self.encoder[0](pixels, output_hidden_states=True).hidden_states
        resized = [
            nn.functional.interpolate(
                self._unit(conv, stage), size=stages[0].shape[2:], mode="bilinear"
            )
            for conv, stage in zip(self.convs, stages, strict=True)
        ]
        return self.conv_seg(self._unit(self.fusion_conv, torch.cat(resized, 1)))

    def _unit(self, unit: nn.Module, x: Tensor) -> Tensor:
        return unit["bn"](unit["conv"](x)).relu()


def _unit(inputs: int, outputs: int) -> nn.ModuleDict:
    return nn.ModuleDict(
        {"conv": nn.Conv2d(inputs, outputs, 1, bias=False), "bn": nn.BatchNorm2d(outputs)}
    )


# --- the tensor names of other programs ---

_AUTHORS = (
    ("patch_embeddings.proj", "patch_embed{s}.proj"),
    ("patch_embeddings.layer_norm", "patch_embed{s}.norm"),
    ("blocks.0.layernorm_before", "block{s}.0.norm1"),
    ("blocks.0.layernorm_after", "block{s}.0.norm2"),
    ("blocks.0.attention.q_proj", "block{s}.0.attn.q"),
    ("blocks.0.attention.o_proj", "block{s}.0.attn.proj"),
    ("blocks.0.attention.sequence_reduction.sequence_reduction", "block{s}.0.attn.sr"),
    ("blocks.0.attention.sequence_reduction.layer_norm", "block{s}.0.attn.norm"),
    ("blocks.0.mlp.fc1", "block{s}.0.mlp.fc1"),
    ("blocks.0.mlp.fc2", "block{s}.0.mlp.fc2"),
    ("blocks.0.mlp.dwconv.dwconv", "block{s}.0.mlp.dwconv.dwconv"),
    ("layer_norm", "norm{s}"),
)
_MMSEG = (
    ("patch_embeddings.proj", "0.projection"),
    ("patch_embeddings.layer_norm", "0.norm"),
    ("blocks.0.layernorm_before", "1.0.norm1"),
    ("blocks.0.layernorm_after", "1.0.norm2"),
    ("blocks.0.attention.o_proj", "1.0.attn.attn.out_proj"),
    ("blocks.0.attention.sequence_reduction.sequence_reduction", "1.0.attn.sr"),
    ("blocks.0.attention.sequence_reduction.layer_norm", "1.0.attn.norm"),
    ("blocks.0.mlp.fc1", "1.0.ffn.layers.0"),
    ("blocks.0.mlp.dwconv.dwconv", "1.0.ffn.layers.1"),
    ("blocks.0.mlp.fc2", "1.0.ffn.layers.4"),
    ("layer_norm", "2"),
)


def authors_state(net: nn.Module) -> dict[str, Tensor]:
    """Return a SegFormer's tensors as its authors' program names them."""
    state, result = net.state_dict(), {}
    for stage in range(4):
        part = _stage(state, stage)
        for old, new in _AUTHORS:
            for end in ("weight", "bias"):
                if f"{old}.{end}" in part:
                    result[f"backbone.{new.format(s=stage + 1)}.{end}"] = part[f"{old}.{end}"]
        for end in ("weight", "bias"):
            pair = [part[f"blocks.0.attention.{letter}_proj.{end}"] for letter in "kv"]
            result[f"backbone.block{stage + 1}.0.attn.kv.{end}"] = torch.cat(pair)
    return result | {
        "decode_head." + _authors_head(key.removeprefix("decode_head.")): value
        for key, value in state.items()
        if key.startswith("decode_head.")
    }


def _authors_head(key: str) -> str:
    for stage in range(4):
        key = key.replace(f"linear_projections.{stage}.", f"linear_c{stage + 1}.")
    key = key.replace("linear_fuse.weight", "linear_fuse.conv.weight")
    return key.replace("batch_norm.", "linear_fuse.bn.").replace("classifier.", "linear_pred.")


def mmsegmentation_state(net: nn.Module, head: MMSegmentationHead) -> dict[str, Tensor]:
    """Return a SegFormer's encoder and that head under mmsegmentation's names."""
    state, result = net.state_dict(), {}
    for stage in range(4):
        part, start = _stage(state, stage), f"backbone.layers.{stage}."
        for old, new in _MMSEG:
            for end in ("weight", "bias"):
                if f"{old}.{end}" in part:
                    value = part[f"{old}.{end}"]
                    linear = ".mlp.fc" in old and end == "weight"
                    result[f"{start}{new}.{end}"] = value[..., None, None] if linear else value
        for end in ("weight", "bias"):
            parts = [part[f"blocks.0.attention.{letter}_proj.{end}"] for letter in "qkv"]
            result[f"{start}1.0.attn.attn.in_proj_{end}"] = torch.cat(parts)
    return result | {f"decode_head.{key}": value for key, value in head.state_dict().items()}


def _stage(state: Mapping[str, Tensor], stage: int) -> dict[str, Tensor]:
    start = f"segformer.stages.{stage}."
    return {key.removeprefix(start): x for key, x in state.items() if key.startswith(start)}
