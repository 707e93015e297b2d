"""Tensor names of SegFormer: three spellings, converted to that of transformers' modules.

- module: the names of transformers 5's modules;
- hub: the names of transformers up to 4, of files on the hub, and of files that transformers
writes;
- authors: the names in the authors' own checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from freqkd_cli.errors import WeightsMissing
from freqkd_cli.weights.state_dict import load_exact

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


_TO_MODULE = _rules(_PAIRS)
_TO_HUB = _rules((new, old) for old, new in _PAIRS)


def _renamed(key: str, rules: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, template in rules:
        if pattern.match(key):
            return pattern.sub(template, key)
    return key


def to_module_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert any of the three spellings to that of the modules.

    A name without a rule stays as it is, so that loading reports it as unexpected.
    """
    if any(re.match(r"(backbone\.)?patch_embed\d\.", key) for key in state):
        state = authors_to_hub(state)
    return {_renamed(key, _TO_MODULE): value for key, value in state.items()}


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


def load_any(net: nn.Module, state: Mapping[str, Tensor], *, where: str, new_head: bool) -> None:
    """Load every tensor of the network; with ``new_head``, all but the classifier.

    Where the weights have no head at all, ``new_head`` leaves out the whole head.

    Raises:
        WeightsMissing: another model's weights, or a tensor is missing, unexpected or of another
        shape.
    """
    state = to_module_names(state)
    if not new_head:
        if not any(key.startswith("decode_head.") for key in state):
            # Without an encoder either, they are another model's, and a new head would not help.
            if not any(key.startswith("segformer.") or ".attention." in key for key in state):
                raise WeightsMissing(
                    f"{where} contains no weights of a SegFormer",
                    got=", ".join(sorted(state)[:3]) + " ...",
                )
            raise WeightsMissing(
                f"{where} has no segmentation head",
                tip="head: new starts one for the recipe's classes",
            )
        load_exact(net, state, where=where)
        return
    if any(key.startswith("decode_head.") for key in state):
        fresh = [key for key in net.state_dict() if key.startswith("decode_head.classifier.")]
    else:
        fresh = [key for key in net.state_dict() if key.startswith("decode_head.")]
        # The head of a checkpoint for image classification.
        fresh += ["classifier.weight", "classifier.bias"]
        if not any(key.startswith("segformer.") for key in state):  # an encoder saved alone
            state = to_module_names(
                {f"segformer.{key}": value for key, value in state.items() if key not in fresh}
            )
    load_exact(net, state, where=where, ignore=fresh)
