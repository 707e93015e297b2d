"""Tensor names of SegFormer: four spellings, converted to that of transformers' modules.

- module: the names of transformers 5's modules;
- hub: the names of transformers up to 4, of files on the hub, and of files that transformers
writes;
- authors: the names in the authors' own checkpoints;
- mmseg: the names of mmsegmentation's backbone and decoder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from freqkd_cli.models._segformer_mmseg import FIRST as MMSEG_FIRST
from freqkd_cli.models._segformer_mmseg import mmseg_to_module

# (hub, module) as templates; {s} is a stage and {b} a block, counted from 0.
_PAIRS = (
    ("segformer.encoder.patch_embeddings.{s}.", "segformer.stages.{s}.patch_embeddings."),
    (
        "segformer.encoder.block.{s}.{b}.layer_norm_1.",
        "segformer.stages.{s}.blocks.{b}.layernorm_before.",
    ),
    (
        "segformer.encoder.block.{s}.{b}.layer_norm_2.",
        "segformer.stages.{s}.blocks.{b}.layernorm_after.",
    ),
    (
        "segformer.encoder.block.{s}.{b}.attention.self.query.",
        "segformer.stages.{s}.blocks.{b}.attention.q_proj.",
    ),
    (
        "segformer.encoder.block.{s}.{b}.attention.self.key.",
        "segformer.stages.{s}.blocks.{b}.attention.k_proj.",
    ),
    (
        "segformer.encoder.block.{s}.{b}.attention.self.value.",
        "segformer.stages.{s}.blocks.{b}.attention.v_proj.",
    ),
    (
        "segformer.encoder.block.{s}.{b}.attention.self.sr.",
        "segformer.stages.{s}.blocks.{b}.attention.sequence_reduction.sequence_reduction.",
    ),
    (
        "segformer.encoder.block.{s}.{b}.attention.self.layer_norm.",
        "segformer.stages.{s}.blocks.{b}.attention.sequence_reduction.layer_norm.",
    ),
    (
        "segformer.encoder.block.{s}.{b}.attention.output.dense.",
        "segformer.stages.{s}.blocks.{b}.attention.o_proj.",
    ),
    ("segformer.encoder.block.{s}.{b}.mlp.dense1.", "segformer.stages.{s}.blocks.{b}.mlp.fc1."),
    ("segformer.encoder.block.{s}.{b}.mlp.dense2.", "segformer.stages.{s}.blocks.{b}.mlp.fc2."),
    ("segformer.encoder.block.{s}.{b}.mlp.dwconv.", "segformer.stages.{s}.blocks.{b}.mlp.dwconv."),
    ("segformer.encoder.layer_norm.{s}.", "segformer.stages.{s}.layer_norm."),
    ("decode_head.linear_c.{s}.", "decode_head.linear_projections.{s}."),
)

# (authors, hub). The authors count stages from 1; keys and values are one tensor, see
# authors_to_hub.
_AUTHORS = (
    (r"block(\d)\.(\d+)\.norm1\.", "segformer.encoder.block.{s}.{b}.layer_norm_1."),
    (r"block(\d)\.(\d+)\.norm2\.", "segformer.encoder.block.{s}.{b}.layer_norm_2."),
    (r"block(\d)\.(\d+)\.attn\.q\.", "segformer.encoder.block.{s}.{b}.attention.self.query."),
    (r"block(\d)\.(\d+)\.attn\.kv\.", "segformer.encoder.block.{s}.{b}.attention.self.kv."),
    (r"block(\d)\.(\d+)\.attn\.sr\.", "segformer.encoder.block.{s}.{b}.attention.self.sr."),
    (
        r"block(\d)\.(\d+)\.attn\.norm\.",
        "segformer.encoder.block.{s}.{b}.attention.self.layer_norm.",
    ),
    (r"block(\d)\.(\d+)\.attn\.proj\.", "segformer.encoder.block.{s}.{b}.attention.output.dense."),
    (r"block(\d)\.(\d+)\.mlp\.fc1\.", "segformer.encoder.block.{s}.{b}.mlp.dense1."),
    (r"block(\d)\.(\d+)\.mlp\.fc2\.", "segformer.encoder.block.{s}.{b}.mlp.dense2."),
    (
        r"block(\d)\.(\d+)\.mlp\.dwconv\.dwconv\.",
        "segformer.encoder.block.{s}.{b}.mlp.dwconv.dwconv.",
    ),
    (r"patch_embed(\d)()\.norm\.", "segformer.encoder.patch_embeddings.{s}.layer_norm."),
    (r"patch_embed(\d)()\.proj\.", "segformer.encoder.patch_embeddings.{s}.proj."),
    (r"norm(\d)()\.", "segformer.encoder.layer_norm.{s}."),
    (r"linear_c(\d)()\.proj\.", "decode_head.linear_c.{s}.proj."),
)
_AUTHORS_HEAD = (
    ("linear_fuse.conv.", "decode_head.linear_fuse."),
    ("linear_fuse.bn.", "decode_head.batch_norm."),
    ("linear_pred.", "decode_head.classifier."),
)


def _rules(pairs: Iterable[tuple[str, str]]) -> list[tuple[re.Pattern[str], str]]:
    rules = []
    for old, new in pairs:
        pattern = "^" + re.escape(old).replace(r"\{s\}", r"(?P<s>\d+)").replace(
            r"\{b\}", r"(?P<b>\d+)"
        )
        rules.append((re.compile(pattern), new.replace("{s}", r"\g<s>").replace("{b}", r"\g<b>")))
    return rules


_ENCODERS = (
    "encoder.patch_embeddings.0.proj.weight",
    "stages.0.patch_embeddings.proj.weight",
    "patch_embed1.proj.weight",
    MMSEG_FIRST,
)
"""The encoder's first tensor: hub, module, authors, mmseg."""

_TO_MODULE = _rules(_PAIRS)
_TO_HUB = _rules((new, old) for old, new in _PAIRS)


def _renamed(key: str, rules: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, template in rules:
        if pattern.match(key):
            return pattern.sub(template, key)
    return key


def first_tensors(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Return prefix of the network's names -> spelling of its encoder's first tensor.

    The prefix is what a wrapper put before the names, such as ``model.`` or ``ema.``; "" is none.
    There are several where a file has several networks, and none where it has no SegFormer.
    """
    places = {}
    for key in state:
        for first in _ENCODERS:
            before = key.removesuffix(first)
            if before != key and (not before or before.endswith(".")):
                places[before.removesuffix("segformer.").removesuffix("backbone.")] = first
    return places


def to_module_names(state: Mapping[str, Tensor], first: str | None = None) -> dict[str, Tensor]:
    """Convert any of the four spellings to that of the modules.

    A name without a rule stays as it is, so that loading reports it. The names of an encoder that
    was saved alone get the prefix ``segformer.``.

    Args:
        first: the spelling, as :func:`first_tensors` returns it; read from the names by default.
    """
    first = first or next(iter(first_tensors(state).values()), None)
    if first == MMSEG_FIRST:
        return mmseg_to_module(state)
    if first == "patch_embed1.proj.weight" or any(
        re.match(r"(backbone\.)?patch_embed\d\.", key) for key in state
    ):
        state = authors_to_hub(state)
    elif first in state:
        state = {_in_network(key): value for key, value in state.items()}
    return {_renamed(key, _TO_MODULE): value for key, value in state.items()}


def _in_network(key: str) -> str:
    return f"segformer.{key}" if key.startswith(("encoder.", "stages.")) else key


def to_hub_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert module names to those of files, which every version of transformers reads."""
    return {_renamed(key, _TO_HUB): value for key, value in state.items()}


def authors_to_hub(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the authors' spelling, such as ``backbone.block1.0.attn.q``.

    Keys and values are split, and heads that no forward pass reads are dropped.
    """
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key.removeprefix("backbone.").removeprefix("decode_head.")
        if name.startswith(("conv_seg.", "head.")):  # made by the framework, never called
            continue
        name = _from_authors(name)
        if ".attention.self.kv." in name:
            half = len(value) // 2
            renamed[name.replace(".kv.", ".key.")] = value[:half]
            renamed[name.replace(".kv.", ".value.")] = value[half:]
        else:
            renamed[name] = value
    return renamed


def _from_authors(name: str) -> str:
    for pattern, template in _AUTHORS:
        match = re.match(pattern, name)
        if match:
            return template.format(s=int(match[1]) - 1, b=match[2]) + name[match.end() :]
    for old, new in _AUTHORS_HEAD:
        if name.startswith(old):
            return new + name[len(old) :]
    return name
