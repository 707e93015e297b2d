"""SegFormer: a hierarchical transformer with an all-MLP head; the teacher, or a student.

Source: Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with
Transformers", NeurIPS 2021 (arXiv 2105.15203), as implemented in transformers.

Taps: ``stage1`` to ``stage4`` (1/4 to 1/32), ``encoder`` (= ``stage4``), ``decoder`` and ``logits``
(1/4), and of each stage's attention ``context1`` to ``context4``, ``attention1`` to ``attention4``,
``keys1`` to ``keys4``.

Departures from transformers' own class: the two linear maps of the decoder (each stage's
projection, then the fusion) are multiplied before they are applied to the image. Bilinear
upsampling commutes with them and comes last. The function is the same, with about half of B0's
multiplications. From scratch, weights are initialised as in the authors' code, whose depth-wise
convolutions start 20 times larger.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from freqkd_cli.features.segmenter import Segmenter
from freqkd_cli.features.taps import Tap
from freqkd_cli.models._segformer_config import Architecture
from freqkd_cli.models._segformer_decoder import draw_encoder, draw_head, fuse, require_size
from freqkd_cli.models._segformer_graphs import attention_taps, encode
from freqkd_cli.models._segformer_names import load_any, to_hub_names, to_module_names
from freqkd_cli.models._segformer_preprocessor import normalisation, reduces_labels
from freqkd_cli.models._segformer_sizes import (
    NVIDIA_LICENSE,
    SegFormerWeights,
    architecture,
    find_weights,
    local_weights,
    weights_license,
)
from freqkd_cli.weights.state_dict import load_exact

log = logging.getLogger(__name__)

PUBLISHED_LICENSE = NVIDIA_LICENSE
"""License of the weights that the model's authors published."""

SegFormerVariant = Literal["mini", "b0", "b1", "b2", "b3", "b4", "b5"]
KeepOrNew = Literal["keep", "new"]
Channels = Annotated[int, Field(gt=0, le=8192)]
Depth = Annotated[int, Field(gt=0, le=256)]
Four = Annotated[list[Channels], Field(min_length=4, max_length=4)]
DropRate = Annotated[float, Field(ge=0, lt=1)]


def build(
    *,
    classes: int,
    variant: SegFormerVariant | None = None,
    weights: str | None = None,
    head: KeepOrNew = "keep",
    channels: Four | None = None,
    depths: Annotated[list[Depth], Field(min_length=4, max_length=4)] | None = None,
    heads: Four | None = None,
    decoder: Channels | None = None,
    drop_path: DropRate = 0.1,
    dropout: DropRate = 0.1,
) -> SegFormer:
    """Build a SegFormer, from scratch or from weights.

    Args:
        classes: K of a model from scratch, or of a ``new`` head.
        variant: b0 by default; with weights that have a ``config.json``, that file decides.
        weights: ``embedded``, a folder, a weight file or a hub id; any float type, and the tensor
            names of any version.
        head: ``keep`` the classifier and the classes of the weights (a teacher), or start a ``new``
            one (fine-tuning).
        channels, depths, heads: four numbers each, stage 1 to 4, instead of the variant's.
        decoder: channels of the decoder, instead of the variant's.
        drop_path: rate of stochastic depth at the last block, linear from 0 at the first.
        dropout: rate of dropout before the classifier.

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
    _describe(model, source)
    return model


def _describe(model: SegFormer, source: SegFormerWeights) -> None:
    """Take license and normalisation of the weights, and warn of what users must know."""
    model.license = source.license
    if model.license and model.license.noncommercial:
        log.warning("%s: %s", source.name, model.license.note or model.license.name)
    if reduces_labels(source.preprocessor):
        log.warning(
            "%s was trained with reduced labels: its class 0 is value 1 in the masks, 0 is void",
            source.name,
        )
    mean_and_std = normalisation(source.preprocessor, source.name)
    if mean_and_std:
        model.set_normalisation(*mean_and_std)


def taps(
    *,
    classes: int,
    variant: SegFormerVariant | None = None,
    weights: str | None = None,
    head: KeepOrNew = "keep",
    channels: Sequence[int] | None = None,
    depths: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    decoder: int | None = None,
    drop_path: float = 0.1,
    dropout: float = 0.1,
) -> tuple[Tap, ...]:
    """Return the taps, from the arguments and from a ``config.json`` on this machine.

    Nothing is downloaded.
    """
    source = local_weights(weights) if weights else None
    sizes = architecture(
        source, variant=variant, channels=channels, depths=depths, heads=heads, decoder=decoder
    )
    return _taps(sizes, source.classes() if source and head == "keep" else classes)


license_of = weights_license


def fetch(*, weights: str | None = None, **_: Any) -> None:
    """Download the description of the weights where it is not on this machine.

    :func:`taps` reads it there.

    Raises:
        WeightsMissing: there are no such weights.
    """
    if weights:
        find_weights(weights)


def _taps(sizes: Architecture, classes: int) -> tuple[Tap, ...]:
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
    """SegFormer around transformers' ``SegformerForSemanticSegmentation``, which is ``net``.

    ``stage1`` to ``stage4`` are read after the stage's LayerNorm. ``decoder`` is the fused map
    after norm and ReLU, before dropout. ``_segformer_graphs.py`` defines ``context1`` to ``keys4``.
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
            tap_names=[tap.name for tap in _taps(sizes, classes)],
        )
        self.attention_taps = attention_taps(sizes)
        rates = {"drop_path_rate": drop_path, "classifier_dropout_prob": dropout}
        self.net = SegformerForSemanticSegmentation(
            SegformerConfig(num_labels=classes, **sizes.keywords(), **rates)
        )
        self.net.segformer.apply(draw_encoder)
        draw_head(self.net.decode_head)
        self.net.train()  # every module starts in training mode

    def run(self, images: Tensor, taps: frozenset[str]) -> dict[str, Tensor]:
        require_size(self.net.config, images)
        wanted = [tap for tap in self.attention_taps if tap.name in taps]
        stages, tensors = encode(self.net.segformer, images, wanted, self.normalise)
        head = self.net.decode_head
        decoder = head.activation(head.batch_norm(fuse(head, stages)))
        tensors |= {f"stage{i}": x for i, x in enumerate(stages, start=1)}
        return tensors | {
            "encoder": stages[3],
            "decoder": decoder,
            "logits": head.classifier(head.dropout(decoder)),
        }

    def portable_state(self) -> dict[str, Tensor]:
        """Return the weights under the names of the hub, which every transformers version reads."""
        return to_hub_names(self.net.state_dict())

    def load_portable(self, state: Mapping[str, Tensor], where: str) -> None:
        load_exact(self.net, to_module_names(state), where=where)

    def portable_config(self) -> dict[str, Any]:
        """Return transformers' own ``config.json``, so that its ``from_pretrained`` works."""
        config = self.net.config.to_dict()
        labels = self.id2label or {i: f"LABEL_{i}" for i in range(self.classes)}
        return config | {
            "architectures": ["SegformerForSemanticSegmentation"],
            "id2label": {str(i): name for i, name in labels.items()},
            "label2id": {name: i for i, name in labels.items()},
        }
