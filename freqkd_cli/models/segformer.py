"""SegFormer: a hierarchical transformer with an all-MLP head; the teacher, or a student.

Source: Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with
Transformers", NeurIPS 2021 (arXiv 2105.15203), as implemented in transformers.

Taps: ``stage1`` to ``stage4`` (1/4 to 1/32), ``encoder`` (= ``stage4``), ``decoder`` and ``logits``
(1/4), and of each stage's attention ``context1`` to ``context4``, ``attention1`` to ``attention4``,
``keys1`` to ``keys4``.

Weights of mmsegmentation's SegFormer have another decoder, ``decoder_style: conv``.

Departures from transformers' own class: the two linear maps of the decoder (each stage's
projection, then the fusion) are multiplied before they are applied to the image. Bilinear
upsampling commutes with them and comes last. The function is the same, with about half of B0's
multiplications. From scratch, weights are initialised as in the authors' code, whose depth-wise
convolutions start 20 times larger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from freqkd_cli.features.segmenter import Segmenter
from freqkd_cli.features.taps import Tap
from freqkd_cli.models._segformer_config import CONV_TYPE, Architecture, DecoderStyle
from freqkd_cli.models._segformer_decoder import (
    decode,
    draw_encoder,
    draw_head,
    require_size,
    use_conv_decoder,
)
from freqkd_cli.models._segformer_graphs import all_taps, attention_taps, encode
from freqkd_cli.models._segformer_load import load_any
from freqkd_cli.models._segformer_names import to_hub_names, to_module_names
from freqkd_cli.models._segformer_sizes import architecture
from freqkd_cli.models._segformer_weights import (
    NVIDIA_LICENSE,
    describe_model,
    find_weights,
    local_weights,
    weights_license,
)
from freqkd_cli.weights.state_dict import load_exact

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
    decoder_style: DecoderStyle | None = None,
    drop_path: DropRate = 0.1,
    dropout: DropRate = 0.1,
) -> SegFormer:
    """Build a SegFormer, from scratch or from weights.

    Args:
        classes: K of a model from scratch, or of a ``new`` head.
        variant: b0 by default; with weights, their ``config.json`` or tensors decide.
        weights: ``embedded``, a folder, a weight file or a hub id; any float type, and the tensor
            names of transformers, of the authors or of mmsegmentation.
        head: ``keep`` the classifier and the classes of the weights (a teacher), or start a ``new``
            one (fine-tuning).
        channels, depths, heads: four numbers each, stage 1 to 4, instead of the variant's.
        decoder: channels of the decoder, instead of the variant's.
        decoder_style: ``linear``, or ``conv`` as in mmsegmentation: a norm and a ReLU after each
            stage's projection; that of the weights by default, else ``linear``.
        drop_path: rate of stochastic depth at the last block, linear from 0 at the first.
        dropout: rate of dropout before the classifier.

    Raises:
        WeightsMissing: no such weights, or a tensor is missing, unexpected or of another shape.
    """
    source = find_weights(weights) if weights else None
    sizes = architecture(
        source,
        variant=variant,
        channels=channels,
        depths=depths,
        heads=heads,
        decoder=decoder,
        decoder_style=decoder_style,
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
    if kept:
        source.check_rows()
    load_any(model.net, source.tensors, new_head=not kept)
    model.id2label = source.id2label() if kept else None
    describe_model(model, source, kept=kept)
    return model


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
    decoder_style: DecoderStyle | None = None,
    drop_path: float = 0.1,
    dropout: float = 0.1,
) -> tuple[Tap, ...]:
    """Return the taps, from the arguments and from a ``config.json`` on this machine.

    Nothing is downloaded.
    """
    source = local_weights(weights) if weights else None
    sizes = architecture(
        source,
        variant=variant,
        channels=channels,
        depths=depths,
        heads=heads,
        decoder=decoder,
        decoder_style=decoder_style,
    )
    return all_taps(sizes, source.classes() if source and head == "keep" else classes)


def class_names(
    *, weights: str | None = None, head: KeepOrNew = "keep", **_: Any
) -> dict[int, str]:
    """Return class number -> name of weights on this machine; empty where they have no names."""
    source = local_weights(weights) if weights and head == "keep" else None
    return (source and source.id2label()) or {}


license_of = weights_license


def fetch(*, weights: str | None = None, **_: Any) -> None:
    """Download the description of the weights where it is not on this machine.

    :func:`taps` reads it there.

    Raises:
        WeightsMissing: there are no such weights.
    """
    if weights:
        find_weights(weights)


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
            **({"decoder_style": "conv"} if sizes.decoder_style == "conv" else {}),
            "drop_path": drop_path,
            "dropout": dropout,
        }
        super().__init__(
            classes=classes,
            arguments=arguments,
            tap_names=[tap.name for tap in all_taps(sizes, classes)],
        )
        self.attention_taps = attention_taps(sizes)
        rates = {"drop_path_rate": drop_path, "classifier_dropout_prob": dropout}
        self.net = SegformerForSemanticSegmentation(
            SegformerConfig(num_labels=classes, **sizes.keywords(), **rates)
        )
        if sizes.decoder_style == "conv":
            use_conv_decoder(self.net)
        self.sizes = sizes
        self.net.segformer.apply(draw_encoder)
        draw_head(self.net.decode_head)
        self.net.train()  # every module starts in training mode

    def run(self, images: Tensor, taps: frozenset[str]) -> dict[str, Tensor]:
        require_size(self.net.config, images)
        wanted = [tap for tap in self.attention_taps if tap.name in taps]
        stages, tensors = encode(self.net.segformer, images, wanted, self.normalise)
        head = self.net.decode_head
        decoder = decode(head, stages)
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
        """Return transformers' own ``config.json``, so that its ``from_pretrained`` works.

        The decoder ``conv``, which transformers has not, has a type of its own.
        """
        labels = self.id2label or {i: f"LABEL_{i}" for i in range(self.classes)}
        fields = {
            "id2label": {str(i): name for i, name in labels.items()},
            "label2id": {name: i for i, name in labels.items()},
        }
        if self.sizes.decoder_style == "conv":
            return {"model_type": CONV_TYPE, **self.sizes.keywords(), **fields}
        architectures = ["SegformerForSemanticSegmentation"]
        return self.net.config.to_dict() | {"architectures": architectures} | fields
