"""The sizes of a SegFormer: from its variant, its config, or the shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from freqkd_cli.errors import RecipeError, WeightsMissing
from freqkd_cli.models._segformer_config import Architecture, DecoderStyle, checked_architecture
from freqkd_cli.models._segformer_load import NamedTensors
from freqkd_cli.models._segformer_weights import SegFormerWeights

# Channels, depths, heads, decoder channels: Xie et al., NeurIPS 2021, table 6. `mini` is this
# project's own, 1.5 M parameters.
VARIANTS: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]] = {
    "mini": ((24, 48, 96, 160), (2, 2, 2, 2), (1, 2, 3, 5), 128),
    "b0": ((32, 64, 160, 256), (2, 2, 2, 2), (1, 2, 5, 8), 256),
    "b1": ((64, 128, 320, 512), (2, 2, 2, 2), (1, 2, 5, 8), 256),
    "b2": ((64, 128, 320, 512), (3, 4, 6, 3), (1, 2, 5, 8), 768),
    "b3": ((64, 128, 320, 512), (3, 4, 18, 3), (1, 2, 5, 8), 768),
    "b4": ((64, 128, 320, 512), (3, 8, 27, 3), (1, 2, 5, 8), 768),
    "b5": ((64, 128, 320, 512), (3, 6, 40, 3), (1, 2, 5, 8), 768),
}


def architecture(
    weights: SegFormerWeights | None,
    *,
    variant: str | None,
    channels: Sequence[int] | None,
    depths: Sequence[int] | None,
    heads: Sequence[int] | None,
    decoder: int | None,
    decoder_style: DecoderStyle | None,
) -> Architecture:
    """Return the sizes of the network.

    With weights, their config decides, or the shapes of their tensors where they have none. An
    argument that differs is an error. Otherwise the variant (b0 by default) decides, and the other
    arguments override it.

    Raises:
        RecipeError: arguments that make no network.
        WeightsMissing: arguments that contradict the weights.
    """
    chosen = _variant_sizes(variant) if variant else {}
    if channels is not None and heads is None and weights is None:
        most_heads = VARIANTS[variant or "b0"][2]
        heads = [
            max(n for n in range(1, most + 1) if c % n == 0)
            for c, most in zip(channels, most_heads, strict=True)
        ]
    given = {
        "hidden_sizes": channels and tuple(channels),
        "depths": depths and tuple(depths),
        "num_attention_heads": heads and tuple(heads),
        "decoder_hidden_size": decoder,
        "decoder_style": decoder_style,
    }
    chosen |= {key: value for key, value in given.items() if value is not None}
    if weights is not None and weights.description is not None:
        return _as_described(weights.name, weights.description.architecture, chosen)
    if weights is not None:
        return _as_described(weights.name, _measured(weights, chosen), chosen)
    sizes = Architecture(**chosen)
    if sizes.unshared:
        raise RecipeError(
            f"{sizes.unshared[0]} channels cannot be divided among the heads",
            got=f"heads {sizes.num_attention_heads}",
            need="a divisor of the channels",
            key="heads",
        )
    return sizes


def _measured(weights: SegFormerWeights, chosen: Mapping[str, Any]) -> Architecture:
    """Return the sizes of weights without a config; what the tensors do not fix is ``chosen``."""
    sizes = sizes_of(weights.tensors)
    widths = tuple(sizes["hidden_sizes"])
    published = [v for v in VARIANTS.values() if v[0] == widths]
    heads = chosen.get("num_attention_heads") or (published[0][2] if published else None)
    if heads is None and weights.tensors.from_mmseg and not any(c % widths[0] for c in widths):
        heads = [width // widths[0] for width in widths]  # its channels are a multiple of the heads
    if heads is None:
        raise WeightsMissing(
            f"{weights.name} has no config.json, and tensors do not fix the attention heads",
            got=f"channels {list(widths)}, which no published SegFormer has",
            need="the number of heads of each stage that it was trained with",
            tip="--set 'heads=[N1, N2, N3, N4]', or the folder with its config.json as weights",
            key="heads",
        )
    same = [v for v in published if v[1] == tuple(sizes["depths"])]
    width = chosen.get("decoder_hidden_size") or (same[0][3] if same else 256)
    fields = {"decoder_hidden_size": width, "num_attention_heads": heads, **sizes}
    return checked_architecture(fields, weights.name)


def _variant_sizes(variant: str) -> dict[str, Any]:
    fields = ("hidden_sizes", "depths", "num_attention_heads", "decoder_hidden_size")
    return dict(zip(fields, VARIANTS[variant], strict=True))


_ARGUMENTS = {
    "hidden_sizes": "channels",
    "depths": "depths",
    "num_attention_heads": "heads",
    "decoder_hidden_size": "decoder",
    "decoder_style": "decoder_style",
}
"""Field of the architecture -> argument of ``build``."""


def _as_described(name: str, sizes: Architecture, chosen: Mapping[str, Any]) -> Architecture:
    for key, value in chosen.items():
        own = getattr(sizes, key)
        if own != value:
            raise WeightsMissing(
                f"{name} has another {key} than the recipe",
                got=value,
                need=own,
                tip="leave variant, channels, depths, heads, decoder and decoder_style out of the "
                "recipe",
                key=_ARGUMENTS[key],
            )
    return sizes


def sizes_of(tensors: NamedTensors) -> dict[str, Any]:
    """Return the fields of ``Architecture`` that the tensors fix: all but heads and activation.

    ``decoder_hidden_size`` is absent where the weights have no decoder of a SegFormer.

    Raises:
        WeightsMissing: a tensor that fixes a size is missing, or a size is outside its range.
    """
    state, where = tensors.state, tensors.where
    stages = [f"segformer.stages.{i}." for i in range(4)]
    patches = [_shape(state, f"{s}patch_embeddings.proj.weight", 4, where) for s in stages]
    widths = [patch[0] for patch in patches]
    hidden = [_shape(state, f"{s}blocks.0.mlp.fc1.weight", 2, where)[0] for s in stages]
    fields: dict[str, Any] = {
        "num_channels": patches[0][1],
        "hidden_sizes": widths,
        "patch_sizes": [patch[2] for patch in patches],
        "depths": [_blocks(state, s) for s in stages],
        "sr_ratios": [_reduction(state, s) for s in stages],
        "mlp_ratios": [_ratio(n, width) for n, width in zip(hidden, widths, strict=True)],
    }
    fusion = state.get("decode_head.linear_fuse.weight")
    if fusion is not None and fusion.ndim == 4 and fusion.shape[1] == 4 * fusion.shape[0]:
        fields["decoder_hidden_size"] = len(fusion)
    if tensors.has_conv_decoder:
        fields["decoder_style"] = "conv"
    checked_architecture(fields, where)
    return fields


def _shape(state: Mapping[str, Tensor], key: str, dimensions: int, where: str) -> Sequence[int]:
    tensor = state.get(key)
    if tensor is None or tensor.ndim != dimensions:
        raise WeightsMissing(
            f"{where} is not a whole SegFormer",
            got=f"{key} is missing" if tensor is None else f"{key} {tuple(tensor.shape)}",
            need="all tensors of the four stages",
            tip="export or download it again",
        )
    return tensor.shape


def _blocks(state: Mapping[str, Tensor], stage: str) -> int:
    before = stage + "blocks."
    return len({key.removeprefix(before).split(".")[0] for key in state if key.startswith(before)})


def _reduction(state: Mapping[str, Tensor], stage: str) -> int:
    name = f"{stage}blocks.0.attention.sequence_reduction.sequence_reduction.weight"
    return state[name].shape[-1] if name in state else 1


def _ratio(hidden: int, width: int) -> int | float:
    return hidden // width if hidden % width == 0 else hidden / width
