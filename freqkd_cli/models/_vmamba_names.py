"""Official checkpoints of VMamba: all spellings of tensor names that the authors' loaders accept.

There are two kinds of files: for classification (``patch_embed. layers. classifier.``), and of
mmsegmentation (``backbone. decode_head. ...``).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from freqkd_cli.errors import WeightsMissing
from freqkd_cli.models._vmamba_blocks import Backbone
from freqkd_cli.models._vmamba_sizes import VARIANTS
from freqkd_cli.weights.key_groups import fitting
from freqkd_cli.weights.state_dict import load_exact

log = logging.getLogger(__name__)

_RULES = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"^patch_embed\.proj\.", "patch_embed.0."),
        (r"^patch_embed\.norm\.", "patch_embed.2."),
        (r"^(layers\.\d+\.blocks\.\d+)\.ln_1\.", r"\1.norm."),
        (r"^(layers\.\d+\.blocks\.\d+)\.self_attention\.", r"\1.op."),
        (r"^(layers\.\d+\.downsample)\.norm\.", r"\1.1."),
        (r"^(layers\.\d+\.downsample)\.reduction\.", r"\1.2."),
        (r"\.op\.x_proj\.weight$", ".op.x_proj_weight"),
        (r"\.op\.dt_projs\.(weight|bias)$", r".op.dt_projs_\1"),
    )
)
_FIRST = tuple(
    f"{start}patch_embed.{layer}.weight" for start in ("backbone.", "") for layer in ("0", "proj")
)
_HEADS = ("classifier.", "norm.", "head.", "decode_head.", "auxiliary_head.")


def backbone_tensors(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return the backbone's tensors under our module names, and the keys of heads, left out."""
    inside = any(key.startswith("backbone.") for key in state)
    tensors: dict[str, Tensor] = {}
    heads = []
    for key, value in state.items():
        name = key.removeprefix("backbone.")
        if name.startswith(_HEADS) and not (inside and key != name):
            heads.append(key)
            continue
        for pattern, new in _RULES:
            name = pattern.sub(new, name)
        tensors[name] = value
    return tensors, heads


def _plain(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape as a matrix's.

    A linear map may be stored as a 1x1 convolution, and the four scan orders as one axis.
    """
    if len(shape) == 4 and shape[2:] == (1, 1):
        return tuple(shape[:2])
    return (shape[0] * shape[1], shape[2]) if len(shape) == 3 else tuple(shape)


def _shaped(value: Tensor, like: Tensor) -> Tensor:
    flat = value.numel() == like.numel() and 1 in (value.ndim, like.ndim)
    return value.reshape(like.shape) if flat or _plain(value.shape) == _plain(like.shape) else value


def _of_one_model(state: Mapping[str, Tensor], where: str) -> Mapping[str, Tensor]:
    """Return the tensors of the only model with a patch embedding, without their prefix.

    Raises:
        WeightsMissing: there are several, and none is the average of the others.
    """
    for name in _FIRST:
        if any(f".{key}".endswith(f".{name}") for key in state):
            return fitting(state, {name}, where)
    return state


def load_backbone(backbone: Backbone, state: Mapping[str, Tensor], where: str) -> None:
    """Load an official checkpoint, and log what was loaded, renamed, left out and initialised.

    A classification file has no norms after the stages; those keep their initial values.

    Raises:
        WeightsMissing: it is of another variant or another network; nothing has been loaded then.
    """
    state = _of_one_model(state, where)
    tensors, heads = backbone_tensors(state)
    wanted = backbone.state_dict()
    tensors = {
        key: _shaped(value, wanted[key]) if key in wanted else value
        for key, value in tensors.items()
    }
    norms = [key for key in wanted if key.startswith("outnorm")]
    absent = [] if any(key in tensors for key in norms) else norms
    try:
        load_exact(backbone, tensors, where=where, ignore=absent)
    except WeightsMissing as error:
        variant = _variant(tensors)
        fits = variant and VARIANTS[variant] != backbone.size
        tip = f"variant: {variant}, which has these depths and widths" if fits else None
        raise WeightsMissing(
            error.what, got=error.got, need=error.need, tip=tip, key="variant" if fits else None
        ) from None
    renamed = sum(key not in state and f"backbone.{key}" not in state for key in tensors)
    log.info(
        "%s: loaded %d tensors of the backbone (%d renamed); left out %d of heads%s; new: %s",
        where,
        len(tensors),
        renamed,
        len(heads),
        f" ({', '.join(sorted({key.partition('.')[0] for key in heads}))})" if heads else "",
        "the segmentation head" + (" and the 4 norms after the stages" if absent else ""),
    )


def _variant(state: Mapping[str, Tensor]) -> str | None:
    """Return the variant with the depths and widths of these tensors, if there is one."""
    try:
        firsts = [f"layers.{i}.blocks.0." for i in range(4)]
        dims = tuple(len(state[f"{first}norm.weight"]) for first in firsts)
        inner = len(state[f"{firsts[0]}op.out_norm.weight"])
    except KeyError:
        return None
    depths = tuple(
        sum(bool(re.match(rf"layers\.{i}\.blocks\.\d+\.norm\.weight$", key)) for key in state)
        for i in range(4)
    )
    for name, size in VARIANTS.items():
        if (size.depths, size.dims, size.inner(dims[0])) == (depths, dims, inner):
            return name
    return None
