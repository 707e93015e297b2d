"""SegFormer: a hierarchical transformer with an all-MLP head, from transformers; the teacher, or a student.

Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers", NeurIPS 2021 (arXiv 2105.15203).
Departures from transformers' own class: the two linear maps of the decoder (each stage's projection, then the fusion) are multiplied
before they meet the picture, and bilinear upsampling, which commutes with them, comes last. Same function, about half of B0's
multiplications. From scratch, weights are drawn as in the authors' code, whose depth-wise convolutions start 20 times larger.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from operator import mul
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from freqkd_cli.errors import ShapeError, WeightsMissing
from freqkd_cli.features.segmenter import Segmenter
from freqkd_cli.features.taps import Tap
from freqkd_cli.models._segformer_config import Architecture
from freqkd_cli.models._segformer_graphs import as_map, attention_taps, encode
from freqkd_cli.models._segformer_names import load_any, to_hub, to_now
from freqkd_cli.models._segformer_sizes import (
    LICENCE_NOTE,
    Weights,
    architecture,
    find_weights,
    normalisation,
    reduces_labels,
)
from freqkd_cli.weights.state_dict import load_exact

__all__ = ["LICENCE_NOTE", "SegFormer", "build", "taps"]

log = logging.getLogger(__name__)

Variant = Literal["mini", "b0", "b1", "b2", "b3", "b4", "b5"]
Head = Literal["keep", "new"]
Size = Annotated[int, Field(gt=0, le=8192)]
Depth = Annotated[int, Field(gt=0, le=256)]
Four = Annotated[list[Size], Field(min_length=4, max_length=4)]
Share = Annotated[float, Field(ge=0, lt=1)]


def build(
    *,
    classes: int,
    variant: Variant | None = None,
    weights: str | None = None,
    head: Head = "keep",
    channels: Four | None = None,
    depths: Annotated[list[Depth], Field(min_length=4, max_length=4)] | None = None,
    heads: Four | None = None,
    decoder: Size | None = None,
    drop_path: Share = 0.1,
    dropout: Share = 0.1,
) -> SegFormer:
    """A SegFormer, from scratch or from weights.

    Args:
        classes: K of a model from scratch, or of a ``new`` head.
        variant: b0 unless said; with weights that carry a ``config.json``, that one decides.
        weights: ``embedded``; a folder or weight file; a hub id. Tensors in any float type, in the spelling of any version.
        head: ``keep`` the classifier of the weights and their number of classes (a teacher), or draw a ``new`` one (fine-tuning).
        channels, depths, heads: four numbers each, stage 1 to 4, instead of the variant's.
        decoder: channels of the decoder, instead of the variant's.
        drop_path: rate of stochastic depth at the last block, linear from 0 at the first.
        dropout: before the classifier.

    Raises:
        WeightsMissing: no such weights, or a tensor is missing, unexpected or of another shape.
    """
    source = find_weights(weights) if weights else None
    sizes = architecture(
        source, variant=variant, channels=channels, depths=depths, heads=heads, decoder=decoder
    )
    kept = source is not None and head == "keep"
    model = SegFormer(
        classes=source.classes() if source and kept else classes,
        sizes=sizes,
        drop_path=drop_path,
        dropout=dropout,
    )
    if source is None:
        return model
    load_any(model.net, source.state(), where=source.name, new_head=not kept)
    model.id2label = source.id2label() if kept else None
    model.licence_note = source.licence_note
    if model.licence_note:
        log.warning("%s: %s", source.name, model.licence_note)
    if reduces_labels(source.preprocessor):
        log.warning(
            "%s was trained with reduced labels: its class 0 is value 1 of the masks, whose 0 is void",
            source.name,
        )
    given = normalisation(source.preprocessor, source.name)
    if given:
        model.set_normalisation(*given)
    return model


def taps(
    *,
    classes: int,
    variant: Variant | None = None,
    weights: str | None = None,
    head: Head = "keep",
    channels: Sequence[int] | None = None,
    depths: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    decoder: int | None = None,
    drop_path: float = 0.1,
    dropout: float = 0.1,
) -> tuple[Tap, ...]:
    """The named places, from the arguments and the weights' ``config.json``, where that is on this machine; nothing is downloaded."""
    source = _at_hand(weights) if weights else None
    sizes = architecture(
        source, variant=variant, channels=channels, depths=depths, heads=heads, decoder=decoder
    )
    return _listed(sizes, source.classes() if source and head == "keep" else classes)


def _at_hand(name: str) -> Weights | None:
    """Weights that are on this machine, or None for a hub id or a run that are still to come."""
    try:
        return find_weights(name, offline=True)
    except WeightsMissing:
        if name == "embedded" or Path(name).expanduser().exists():
            raise
        return None


def fetch(*, weights: str | None = None, **_: Any) -> None:
    """Have the weights' description on this machine, so that :func:`taps` knows it.

    Raises:
        WeightsMissing: it is nowhere.
    """
    if weights:
        find_weights(weights)


def _listed(sizes: Architecture, classes: int) -> tuple[Tap, ...]:
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


class SegFormer(Segmenter):
    """Taps: ``stage1`` to ``stage4`` after the stage's LayerNorm, ``decoder`` (fused map after norm and ReLU, before dropout), ``logits``.

    ``encoder`` is another name of ``stage4``. ``context1`` to ``keys4`` are told in ``_segformer_graphs.py``. ``net`` is transformers'
    ``SegformerForSemanticSegmentation``.
    """

    def __init__(
        self, *, classes: int, sizes: Architecture, drop_path: float, dropout: float
    ) -> None:
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        arguments = {
            "channels": list(sizes.hidden_sizes),
            "depths": list(sizes.depths),
            "heads": list(sizes.num_attention_heads),
            "decoder": sizes.decoder_hidden_size,
            "drop_path": drop_path,
            "dropout": dropout,
        }
        super().__init__(
            classes=classes,
            arguments=arguments,
            tap_names=[tap.name for tap in _listed(sizes, classes)],
        )
        self.attention_taps = attention_taps(sizes)
        rates = {"drop_path_rate": drop_path, "classifier_dropout_prob": dropout}
        self.net = SegformerForSemanticSegmentation(
            SegformerConfig(num_labels=classes, **sizes.keywords(), **rates)
        )
        self.net.segformer.apply(_draw_encoder)
        _draw_head(self.net.decode_head)
        self.net.train()  # as every module is born; transformers' are born so too, this says it

    def run(self, images: Tensor, taps: frozenset[str]) -> dict[str, Tensor]:
        self._check_size(images)
        wanted = [tap for tap in self.attention_taps if tap.name in taps]
        stages, found = encode(self.net.segformer, images, wanted, self.normalise)
        head = self.net.decode_head
        decoder = head.activation(head.batch_norm(self._fuse(stages)))
        found |= {f"stage{i}": x for i, x in enumerate(stages, start=1)}
        return found | {
            "encoder": stages[3],
            "decoder": decoder,
            "logits": head.classifier(head.dropout(decoder)),
        }

    def _fuse(self, stages: Sequence[Tensor]) -> Tensor:
        """sum_i up(F_i (P_i x_i + p_i)), F_i the slice of the fusion that meets stage i (the last stage comes first in it)."""
        head = self.net.decode_head
        width = head.linear_fuse.out_channels
        size = stages[0].shape[-2:]
        total: Tensor | None = None
        device = stages[0].device.type
        with torch.autocast(
            "cpu" if device == "meta" else device, enabled=False
        ):  # a product of weights: rounded once, not twice
            slices = head.linear_fuse.weight.flatten(1).split(width, dim=1)[::-1]
            maps = [
                part @ linear.proj.weight
                for part, linear in zip(slices, head.linear_projections, strict=True)
            ]
            bias = sum(
                part @ linear.proj.bias
                for part, linear in zip(slices, head.linear_projections, strict=True)
            )
        for i in (3, 2, 1, 0):
            # A constant survives upsampling, so all four biases ride on the smallest map.
            y = as_map(
                F.linear(stages[i].flatten(2).transpose(1, 2), maps[i], bias if i == 3 else None),
                stages[i].shape[-2:],
            )
            if i > 0:
                y = F.interpolate(y, size=size, mode="bilinear", align_corners=False)
            total = y if total is None else total + y
        assert total is not None
        return total

    def _check_size(self, images: Tensor) -> None:
        if torch.compiler.is_exporting():  # sizes are symbols there
            return
        config = self.net.config
        for stride, reduction in zip(
            accumulate(config.strides, mul), config.sr_ratios, strict=True
        ):
            if min(-(-n // stride) for n in images.shape[-2:]) < reduction:
                need = max(
                    s * (r - 1) + 1
                    for s, r in zip(accumulate(config.strides, mul), config.sr_ratios, strict=True)
                )
                raise ShapeError(
                    "images are too small for this SegFormer",
                    got=tuple(images.shape[-2:]),
                    need=f"at least {need} a side",
                )

    def portable_state(self) -> dict[str, Tensor]:
        """Names as files on the hub have them, which every version of transformers reads."""
        return to_hub(self.net.state_dict())

    def load_portable(self, state: Mapping[str, Tensor], where: str) -> None:
        load_exact(self.net, to_now(state), where=where)

    def portable_config(self) -> dict[str, Any]:
        """transformers' own ``config.json``, so that its ``from_pretrained`` reads the folder."""
        config = self.net.config.to_dict()
        labels = self.id2label or {i: f"LABEL_{i}" for i in range(self.classes)}
        return config | {
            "architectures": ["SegformerForSemanticSegmentation"],
            "id2label": {str(i): name for i, name in labels.items()},
            "label2id": {name: i for i, name in labels.items()},
        }


def _draw_encoder(module: nn.Module) -> None:
    """The authors' initialisation: transformers' 0.02 for every layer makes depth-wise convolutions start as almost nothing."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = (
            module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        )
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _draw_head(head: nn.Module) -> None:
    for linear in head.linear_projections:
        linear.proj.reset_parameters()
    nn.init.kaiming_normal_(head.linear_fuse.weight, mode="fan_out", nonlinearity="relu")
    nn.init.normal_(head.classifier.weight, std=0.01)
    nn.init.zeros_(head.classifier.bias)
