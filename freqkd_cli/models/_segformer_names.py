"""Three spellings of the same SegFormer tensors, brought to the one that transformers' modules have, and loaded.

``now`` is what transformers 5 calls its modules, ``hub`` what transformers up to 4 called them and what files on the hub (and files that
transformers writes today) say, ``authors`` what the authors' own checkpoints say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from freqkd_cli.errors import WeightsMissing
from freqkd_cli.weights.state_dict import load_exact

# (hub, now) as templates; {s} is a stage and {b} a block, counted from 0.
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

# Authors' spelling, to that of the hub. Stages count from 1 there; keys and values are one tensor (see authors_to_hub).
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


_TO_NOW = _rules(_PAIRS)
_TO_HUB = _rules((new, old) for old, new in _PAIRS)


def _renamed(key: str, rules: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, template in rules:
        if pattern.match(key):
            return pattern.sub(template, key)
    return key


def to_now(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Any of the three spellings to that of the modules. A name that no rule knows stays, and is then found unexpected."""
    if any(re.match(r"(backbone\.)?patch_embed\d\.", key) for key in state):
        state = authors_to_hub(state)
    return {_renamed(key, _TO_NOW): value for key, value in state.items()}


def to_hub(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The spelling of files: every version of transformers that knows SegFormer reads it."""
    return {_renamed(key, _TO_HUB): value for key, value in state.items()}


def authors_to_hub(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' ``backbone.block1.0.attn.q`` spelling; keys and values are split, and heads that no forward pass reads are dropped."""
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key.removeprefix("backbone.").removeprefix("decode_head.")
        if name.startswith(("conv_seg.", "head.")):  # made by the framework, never called
            continue
        name = _from_authors(name)
        if ".attention.self.kv." in name:
            half = len(value) // 2
            out[name.replace(".kv.", ".key.")], out[name.replace(".kv.", ".value.")] = (
                value[:half],
                value[half:],
            )
        else:
            out[name] = value
    return out


def _from_authors(name: str) -> str:
    for pattern, template in _AUTHORS:
        found = re.match(pattern, name)
        if found:
            return template.format(s=int(found[1]) - 1, b=found[2]) + name[found.end() :]
    for old, new in _AUTHORS_HEAD:
        if name.startswith(old):
            return new + name[len(old) :]
    return name


def load_any(net: nn.Module, state: Mapping[str, Tensor], *, where: str, new_head: bool) -> None:
    """Every tensor of the network; with a new head all but the classifier, or all but the head where the weights have none.

    Raises:
        WeightsMissing: another model's weights, or a tensor is missing, unexpected or of another shape.
    """
    state = to_now(state)
    if not new_head:
        if not any(key.startswith("decode_head.") for key in state):
            # Without an encoder either, they are another model's, and no new head would help.
            if not any(key.startswith("segformer.") or ".attention." in key for key in state):
                raise WeightsMissing(
                    f"{where} holds no weights of a SegFormer",
                    got=", ".join(sorted(state)[:3]) + " ...",
                )
            raise WeightsMissing(
                f"{where} has no segmentation head",
                tip="head: new, which draws one for the recipe's classes",
            )
        load_exact(net, state, where=where)
        return
    if any(key.startswith("decode_head.") for key in state):
        drawn = [key for key in net.state_dict() if key.startswith("decode_head.classifier.")]
    else:
        drawn = [key for key in net.state_dict() if key.startswith("decode_head.")]
        drawn += [
            "classifier.weight",
            "classifier.bias",
        ]  # of a checkpoint for image classification
        if not any(key.startswith("segformer.") for key in state):  # an encoder saved alone
            state = to_now(
                {f"segformer.{key}": value for key, value in state.items() if key not in drawn}
            )
    load_exact(net, state, where=where, ignore=drawn)
