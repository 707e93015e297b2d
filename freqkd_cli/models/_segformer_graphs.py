"""The taps ``context``, ``keys`` and ``attention`` of SegFormer: features, nodes and graphs.

Each tap is read from the last block of its stage, by hooks on the block's projections. The hooks
exist only while such a tap is wanted, so the block keeps its fused attention and an ordinary pass
computes nothing more. The simplified block is that of CASS (arXiv 2411.17150): LayerNorm, then
self-attention. The block's residual and MLP are left out.

``context`` is softmax(Q K^T / sqrt(d)) V with the heads joined by the output projection, as in
CASS. The projection is needed: a head's values can be rotated one way and its part of the
projection the other way without any change to the model. The unprojected channels, which a loss
standardises, would depend on that arbitrary rotation.

``attention`` and ``keys`` are on the grid of the keys, whose cells are ``stride * sequence
reduction`` pixels wide: 32 at every stage of the published sizes. ``attention`` is the softmax in
float32, before dropout. It is averaged over the reduction x reduction queries of each node, so rows
still sum to 1. ``keys`` is the output of the projection. Its Gram matrix K K^T / sqrt(d) is
symmetric and positive semidefinite.

An image whose sides that stride does not divide has no common grid, because the reduction drops the
remainder: 360 x 480 gives 11 x 15 keys at stages 1 to 3 and 12 x 15 at stage 4. Its graphs are
those of the image padded with grey at the bottom and on the right, as the view ``whole`` is padded.
They come from a second pass that nothing else reads. Every stage then has ceil(H / 32) x ceil(W /
32) nodes, and a warning is logged once. Training views are multiples of 32 already.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from freqkd_cli.features.taps import Tap
from freqkd_cli.models._segformer_config import Architecture
from freqkd_cli.spectral.fourier import widened

log = logging.getLogger(__name__)

READS = {"context": ("o_proj",), "attention": ("q_proj", "k_proj"), "keys": ("k_proj",)}
"""Kind of tap -> the projections (transformers' names) of an attention block that it is made of."""


def attention_taps(sizes: Architecture) -> tuple[Tap, ...]:
    """Return the taps ``context1`` to ``keys4``."""
    strides, nodes = sizes.stage_strides, sizes.node_strides
    channels, heads = sizes.hidden_sizes, sizes.num_attention_heads
    return (
        *(Tap(f"context{i + 1}", strides[i], channels[i]) for i in range(4)),
        *(Tap(f"attention{i + 1}", nodes[i], heads[i], "graph", heads=heads[i]) for i in range(4)),
        *(Tap(f"keys{i + 1}", nodes[i], channels[i], "nodes", heads=heads[i]) for i in range(4)),
    )


def all_taps(sizes: Architecture, classes: int) -> tuple[Tap, ...]:
    """Return every tap of the model, ``stage1`` to ``keys4``."""
    strides = sizes.stage_strides
    stages = [
        Tap(f"stage{i}", s, c)
        for i, (s, c) in enumerate(zip(strides, sizes.hidden_sizes, strict=True), start=1)
    ]
    return (
        *stages,
        Tap("decoder", strides[0], sizes.decoder_hidden_size),
        Tap("logits", strides[0], classes, "logits"),
        Tap("encoder", strides[3], sizes.hidden_sizes[3], alias="stage4"),
        *attention_taps(sizes),
    )


def encode(
    encoder: nn.Module, images: Tensor, taps: Sequence[Tap], normalise: Callable[[Tensor], Tensor]
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Run the four stages.

    Args:
        encoder: transformers' ``SegformerModel``.
        images: ``[B, 3, H, W]``, normalised.
        taps: the wanted ones of :func:`attention_taps`.
        normalise: the normalisation of the images, for the grey of the padding.

    Returns:
        The stages' maps ``[B, C, h, w]``, and the taps: ``context`` ``[B, C, h, w]``, ``attention``
        ``[B, heads, N, N]`` in float32 or wider, ``keys`` ``[B, heads, N, d]``.
    """
    uneven = [
        tap
        for tap in taps
        if tap.kind != "features" and any(side % tap.stride for side in images.shape[-2:])
    ]
    maps, tensors = _run(encoder, images, [tap.name for tap in taps if tap not in uneven])
    for stride in {tap.stride for tap in uneven}:
        padded = _padded(images, stride, normalise)
        tensors |= _run(encoder, padded, [tap.name for tap in uneven if tap.stride == stride])[1]
    return maps, tensors


def _run(
    encoder: nn.Module, images: Tensor, taps: Sequence[str]
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Run one pass; the grid of the taps must divide the images."""
    outputs: dict[tuple[int, str], Tensor] = {}
    maps: list[Tensor] = []
    handles = []
    try:
        for number, part in {(int(name[-1]), part) for name in taps for part in READS[name[:-1]]}:
            projection = getattr(encoder.stages[number - 1].blocks[-1].attention, part)
            handles.append(
                projection.register_forward_hook(partial(_keep, outputs, (number, part)))
            )
        for stage in encoder.stages:
            maps.append(stage(maps[-1] if maps else images))
    finally:
        for handle in handles:
            handle.remove()
    return maps, {name: _tap(name, outputs, maps, encoder.config) for name in taps}


def _keep(
    outputs: dict[tuple[int, str], Tensor],
    key: tuple[int, str],
    module: nn.Module,
    inputs: Any,
    output: Tensor,
) -> None:
    """Store a projection's output: a forward hook."""
    outputs[key] = output


def _tap(
    name: str, outputs: Mapping[tuple[int, str], Tensor], maps: Sequence[Tensor], config: Any
) -> Tensor:
    kind, number = name[:-1], int(name[-1])
    parts = [outputs[number, part] for part in READS[kind]]
    size, heads = maps[number - 1].shape[-2:], config.num_attention_heads[number - 1]
    if kind == "context":
        return as_map(parts[0], size)
    if kind == "keys":
        return _by_head(parts[0], heads)
    return pooled_attention(
        *(_by_head(part, heads) for part in parts), size, config.sr_ratios[number - 1]
    )


def pooled_attention(queries: Tensor, keys: Tensor, size: Sequence[int], reduction: int) -> Tensor:
    """Return softmax(Q K^T / sqrt(d)), averaged over blocks of reduction x reduction queries.

    The result is ``[B, heads, N, N]``.

    Args:
        queries: ``[B, heads, h * w, d]`` of the grid ``size`` = (h, w).
        keys: ``[B, heads, N, d]``, N = h * w / reduction^2.
        size: (h, w), both multiples of ``reduction``.
        reduction: queries per node and side.
    """
    nodes = size[1] // reduction
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys = widened(queries), widened(keys).transpose(-2, -1) * keys.shape[-1] ** -0.5
        # Node row by node row: the full attention of stage 1 at 1024 x 2048 takes 1 GiB an image.
        rows = [
            (strip @ keys).softmax(-1).unflatten(2, (reduction, nodes, reduction)).mean((2, 4))
            for strip in queries.unflatten(2, (size[0] // reduction, -1)).unbind(2)
        ]
        return torch.cat(rows, dim=2)


def _by_head(tokens: Tensor, heads: int) -> Tensor:
    """Return ``[B, N, heads * d]`` as ``[B, heads, N, d]``, a view."""
    return tokens.unflatten(2, (heads, -1)).transpose(1, 2)


def as_map(tokens: Tensor, size: Sequence[int]) -> Tensor:
    """Return ``[B, N, C]`` as ``[B, C, h, w]``, a view."""
    return tokens.transpose(1, 2).unflatten(2, (size[0], size[1]))


def _padded(images: Tensor, stride: int, normalise: Callable[[Tensor], Tensor]) -> Tensor:
    """Pad with grey at the bottom and on the right, up to multiples of ``stride``."""
    from freqkd_cli.views.apply import GREY

    _warn_of_padding(stride)
    height, width = images.shape[-2:]
    grey = normalise(torch.full((1, 3, 1, 1), GREY, device=images.device))
    padded = grey.expand(
        len(images), -1, -(-height // stride) * stride, -(-width // stride) * stride
    ).clone()
    padded[..., :height, :width] = images
    return padded


@cache
def _warn_of_padding(stride: int) -> None:
    """Log once for each stride, and not for every batch."""
    log.warning(
        "image sides are not multiples of %d: graphs are those of the image padded with grey",
        stride,
    )
