"""Official checkpoints of VMamba: every spelling that the authors' loaders accept, brought to the one of the modules here.

Files are of two kinds: for classification (``patch_embed. layers. classifier.``), of mmsegmentation (``backbone. decode_head. ...``).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from freqkd_cli.errors import WeightsMissing
from freqkd_cli.models._vmamba_blocks import Backbone
from freqkd_cli.models._vmamba_sizes import VARIANTS
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
_HEADS = ("classifier.", "norm.", "head.", "decode_head.", "auxiliary_head.")


def to_now(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors of the backbone under the names of the modules here, and the keys of heads, which are left out."""
    inside = any(key.startswith("backbone.") for key in state)
    found: dict[str, Tensor] = {}
    left = []
    for key, value in state.items():
        name = key.removeprefix("backbone.")
        if name.startswith(_HEADS) and not (inside and key != name):
            left.append(key)
            continue
        for pattern, new in _RULES:
            name = pattern.sub(new, name)
        found[name] = value
    return found, left


def _plain(shape: Sequence[int]) -> tuple[int, ...]:
    """A linear map may be stored as a 1x1 convolution, and the four orders as one axis."""
    if len(shape) == 4 and shape[2:] == (1, 1):
        return tuple(shape[:2])
    return (shape[0] * shape[1], shape[2]) if len(shape) == 3 else tuple(shape)


def _shaped(value: Tensor, like: Tensor) -> Tensor:
    flat = value.numel() == like.numel() and 1 in (value.ndim, like.ndim)
    return value.reshape(like.shape) if flat or _plain(value.shape) == _plain(like.shape) else value


def load_backbone(backbone: Backbone, state: Mapping[str, Tensor], where: str) -> None:
    """Take an official checkpoint, and say what was taken, renamed, left out and drawn anew.

    A classification file has no norms behind the stages; those keep what they are.

    Raises:
        WeightsMissing: it is of another variant or another network; nothing has been loaded then.
    """
    found, left = to_now(state)
    wanted = backbone.state_dict()
    found = {
        key: _shaped(value, wanted[key]) if key in wanted else value for key, value in found.items()
    }
    norms = [key for key in wanted if key.startswith("outnorm")]
    absent = [] if any(key in found for key in norms) else norms
    try:
        load_exact(backbone, found, where=where, ignore=absent)
    except WeightsMissing as error:
        of = _variant(found)
        tip = (
            f"variant: {of}, which has their depths and widths"
            if of and VARIANTS[of] != backbone.size
            else None
        )
        raise WeightsMissing(error.what, got=error.got, need=error.need, tip=tip) from None
    renamed = sum(key not in state and f"backbone.{key}" not in state for key in found)
    log.info(
        "%s: took %d tensors of the backbone (%d renamed); left out %d of heads%s; drawn anew: %s",
        where,
        len(found),
        renamed,
        len(left),
        f" ({', '.join(sorted({key.partition('.')[0] for key in left}))})" if left else "",
        "the segmentation head" + (" and the 4 norms behind the stages" if absent else ""),
    )


def _variant(state: Mapping[str, Tensor]) -> str | None:
    """The variant whose depths and widths these tensors have, if any."""
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
