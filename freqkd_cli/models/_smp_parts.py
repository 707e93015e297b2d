"""The parts of a network of segmentation-models-pytorch, run one by one."""

from __future__ import annotations

from torch import Tensor, nn


def divisor_of(net: nn.Module) -> int:
    """Return the number that padded sides are multiples of.

    The nominal output stride of a dilated encoder is too small for its pooled levels.
    """
    return max(32, int(getattr(net.encoder, "output_stride", 32)))


def run_parts(net: nn.Module, images: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Return the stages by name, the decoder's output, and logits before the head's upsampling.

    Level n of an encoder is stage n - 1, so 1/4 is stage 1. A dilated encoder keeps the names and
    has smaller strides. A vision transformer (dpt) gives maps of one stride from four depths, and
    these are its stages.
    """
    encoded = net.encoder(images)
    if isinstance(encoded, tuple):
        features, first = encoded[0], 0
        decoder = net.decoder(*encoded)
    else:
        features, first = encoded, 2
        decoder = net.decoder(encoded)
    stages = {f"stage{i}": x for i, x in enumerate(features[first:], start=1) if x.shape[1] > 0}
    head = net.segmentation_head
    return stages, decoder, head[0](decoder) if isinstance(head, nn.Sequential) else head(decoder)
