"""Tensor names of mmsegmentation's SegFormer, converted to those of the modules here.

Its backbone is ``MixVisionTransformer``, its decoder ``SegformerHead``. Queries, keys and values
are one tensor there, linear layers of the MLP are 1x1 convolutions, and the fusion has the first
stage first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

FIRST = "layers.0.0.projection.weight"
"""The backbone's first tensor, which no other spelling has."""

_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_STAGE, _BLOCK = "segformer.stages.{s}.", "segformer.stages.{s}.blocks.{b}."
# Patterns of the backbone's names -> the module's; s is a stage and b a block, counted from 0.
_ENCODER = tuple(
    (re.compile(rf"layers\.(?P<s>\d+)\.{pattern}"), name)
    for pattern, name in (
        (r"0\.projection\.", _STAGE + "patch_embeddings.proj."),
        (r"0\.norm\.", _STAGE + "patch_embeddings.layer_norm."),
        (r"1\.(?P<b>\d+)\.norm1\.", _BLOCK + "layernorm_before."),
        (r"1\.(?P<b>\d+)\.norm2\.", _BLOCK + "layernorm_after."),
        (r"1\.(?P<b>\d+)\.attn\.attn\.in_proj_", _BLOCK + "attention.{qkv}."),
        (r"1\.(?P<b>\d+)\.attn\.attn\.out_proj\.", _BLOCK + "attention.o_proj."),
        (
            r"1\.(?P<b>\d+)\.attn\.sr\.",
            _BLOCK + "attention.sequence_reduction.sequence_reduction.",
        ),
        (r"1\.(?P<b>\d+)\.attn\.norm\.", _BLOCK + "attention.sequence_reduction.layer_norm."),
        (r"1\.(?P<b>\d+)\.ffn\.layers\.0\.", _BLOCK + "mlp.fc1."),
        (r"1\.(?P<b>\d+)\.ffn\.layers\.1\.", _BLOCK + "mlp.dwconv.dwconv."),
        (r"1\.(?P<b>\d+)\.ffn\.layers\.4\.", _BLOCK + "mlp.fc2."),
        (r"2\.", _STAGE + "layer_norm."),
    )
)
_HEAD = (
    ("decode_head.convs.", "decode_head.projections."),
    ("decode_head.fusion_conv.conv.", "decode_head.linear_fuse."),
    ("decode_head.fusion_conv.bn.", "decode_head.batch_norm."),
    ("decode_head.conv_seg.", "decode_head.classifier."),
)


def mmseg_to_module(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert mmsegmentation's spelling, such as ``backbone.layers.0.1.0.attn.attn.in_proj_bias``.

    A name without a rule stays as it is.
    """
    converted: dict[str, Tensor] = {}
    for key, value in state.items():
        name = _encoder_name(key.removeprefix("backbone.")) or _head_name(key)
        if "{qkv}" in name:
            parts = zip(_PROJECTIONS, value.chunk(3), strict=False)
            converted |= {name.replace("{qkv}", part): tensor for part, tensor in parts}
        elif name.endswith((".mlp.fc1.weight", ".mlp.fc2.weight")):
            converted[name] = value.flatten(1)
        elif name == "decode_head.linear_fuse.weight":
            converted[name] = torch.cat(value.chunk(4, dim=1)[::-1], dim=1)
        else:
            converted[name] = value
    return converted


def _encoder_name(name: str) -> str | None:
    for pattern, template in _ENCODER:
        match = pattern.match(name)
        if match:
            numbers = {"s": match["s"], "b": match.groupdict().get("b"), "qkv": "{qkv}"}
            return template.format(**numbers) + name[match.end() :]
    return None


def _head_name(name: str) -> str:
    for old, new in _HEAD:
        if name.startswith(old):
            return new + name[len(old) :]
    return name
