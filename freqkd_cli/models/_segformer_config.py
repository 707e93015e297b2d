"""What a SegFormer is made of, and how transformers' ``config.json`` says it; each field is checked before anything is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import accumulate
from operator import mul
from typing import Any

from freqkd_cli.errors import WeightsMissing
from freqkd_cli.weights.config import (
    LABELS,
    Config,
    Kind,
    exactly,
    names_by_number,
    number,
    refuse,
    several,
    undescribed,
    whole,
)

Four = tuple[int, int, int, int]

ACTIVATIONS = frozenset(
    "gelu gelu_10 gelu_accurate gelu_fast gelu_new gelu_python gelu_python_tanh gelu_pytorch_tanh laplace leaky_relu linear mish "
    "quick_gelu relu relu2 relu6 sigmoid silu swish tanh".split()
)
"""Names that transformers knows; its list costs seconds to import."""


@dataclass(frozen=True)
class Architecture:
    """Keywords of transformers' ``SegformerConfig``, without classes and drop rates; the defaults are what it takes for a silent file."""

    num_channels: int = 3
    num_encoder_blocks: int = 4
    depths: Four = (2, 2, 2, 2)
    sr_ratios: Four = (8, 4, 2, 1)
    hidden_sizes: Four = (32, 64, 160, 256)
    patch_sizes: Four = (7, 3, 3, 3)
    strides: Four = (4, 2, 2, 2)
    num_attention_heads: Four = (1, 2, 5, 8)
    mlp_ratios: tuple[float, ...] = (4, 4, 4, 4)
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-6
    decoder_hidden_size: int = 256

    @property
    def stage_strides(self) -> tuple[int, ...]:
        """Image pixels per cell after each stage."""
        return tuple(accumulate(self.strides, mul))

    @property
    def node_strides(self) -> tuple[int, ...]:
        """Image pixels per cell of each stage's keys."""
        return tuple(
            stride * reduction
            for stride, reduction in zip(self.stage_strides, self.sr_ratios, strict=True)
        )

    def keywords(self) -> dict[str, Any]:
        """As they are written in JSON."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }


@dataclass(frozen=True)
class Description:
    """A checked ``config.json``. ``id2label`` is None where nobody named the classes."""

    path: str
    architecture: Architecture
    classes: int
    id2label: Mapping[int, str] | None


def _four(kind: Kind) -> Kind:
    return several("four", 4, kind)


_PATCH = Kind(
    "an odd number from 1 to 63",
    lambda value: type(value) is int and 0 < value < 64 and value % 2 == 1,
)
_KINDS: dict[str, Kind] = {
    "num_channels": exactly(3),
    "num_encoder_blocks": exactly(4),
    "depths": _four(whole(1, 256)),
    "sr_ratios": _four(whole(1, 64)),
    "hidden_sizes": _four(whole(1, 8192)),
    "patch_sizes": _four(_PATCH),  # an even patch adds a row and a column to the grid
    "strides": exactly([4, 2, 2, 2]),
    "num_attention_heads": _four(whole(1, 8192)),
    "mlp_ratios": _four(number(1, 64)),
    "hidden_act": Kind(
        f"one of {', '.join(sorted(ACTIVATIONS))}",
        lambda value: isinstance(value, str) and value in ACTIVATIONS,
    ),
    "hidden_dropout_prob": number(0, 1),
    "attention_probs_dropout_prob": number(0, 1),
    "initializer_range": number(0, 10),
    "layer_norm_eps": number(0, 1),
    "decoder_hidden_size": whole(1, 8192),
    "id2label": LABELS,
    "num_labels": whole(1, 65536),
}


def describe(config: Config) -> Description:
    """What a SegFormer's ``config.json`` says; fields that it leaves out are as transformers has them.

    Raises:
        WeightsMissing: it is another model's, a field is of the wrong kind or size, or heads do not share a stage's channels.
    """
    said = config.said
    kind, model = said.get("model_type", "segformer"), config.ours.model or "segformer"
    if kind != "segformer" or model != "segformer":
        got = f"model_type {kind}" if kind != "segformer" else f"model {model}"
        raise WeightsMissing(
            f"{config.path} says that these are no weights of a SegFormer",
            got=got,
            need="model_type segformer",
        )
    refuse(config.path, said, _KINDS)
    held = {field.name: said[field.name] for field in fields(Architecture) if field.name in said}
    found = Architecture(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in held.items()}
    )
    if any(
        width % heads
        for width, heads in zip(found.hidden_sizes, found.num_attention_heads, strict=True)
    ):
        got = {"num_attention_heads": found.num_attention_heads, "hidden_sizes": found.hidden_sizes}
        raise undescribed(config.path, got, "num_attention_heads: divisors of hidden_sizes")
    labels = said.get("id2label")
    return Description(
        config.path, found, len(labels) if labels else said.get("num_labels", 2), _named(labels)
    )


def _named(labels: Mapping[str, Any] | None) -> dict[int, str] | None:
    """Class names, unless they are the ones that transformers invents."""
    if not labels or all(str(name) == f"LABEL_{number}" for number, name in labels.items()):
        return None
    return names_by_number(labels)
