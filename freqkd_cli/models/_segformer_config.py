"""The sizes of a SegFormer, and the checks of a ``config.json`` that transformers wrote for one."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from operator import mul
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict

from freqkd_cli.errors import WeightsMissing
from freqkd_cli.weights.config import (
    ClassNames,
    ModelConfig,
    any_number,
    checked,
    not_a_model,
    several,
    whole_number,
)

ACTIVATIONS = frozenset(
    "gelu gelu_10 gelu_accurate gelu_fast gelu_new gelu_python gelu_python_tanh gelu_pytorch_tanh "
    "laplace leaky_relu linear mish quick_gelu relu relu2 relu6 sigmoid silu swish tanh".split()
)
"""Names that transformers accepts; its own list costs seconds to import."""


def _known_activation(name: Any) -> str:
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(f"one of {', '.join(sorted(ACTIVATIONS))}")
    return name


def _odd(size: int) -> int:
    if size % 2 == 0:  # an even patch adds a row and a column to the grid
        raise ValueError("an odd number from 1 to 63")
    return size


def _halving(strides: tuple[int, ...]) -> tuple[int, ...]:
    if strides != (4, 2, 2, 2):
        raise ValueError("[4, 2, 2, 2]")
    return strides


Width = several(4, whole_number(1, 8192))
Rate = any_number(0, 1)


class Architecture(BaseModel):
    """The keywords of transformers' ``SegformerConfig``, without classes and drop rates.

    The defaults are those that transformers uses for a file that leaves a field out.
    """

    model_config = ConfigDict(frozen=True)

    num_channels: Literal[3] = 3
    num_encoder_blocks: Literal[4] = 4
    depths: several(4, whole_number(1, 256)) = (2, 2, 2, 2)  # type: ignore[valid-type]
    sr_ratios: several(4, whole_number(1, 64)) = (8, 4, 2, 1)  # type: ignore[valid-type]
    hidden_sizes: Width = (32, 64, 160, 256)  # type: ignore[valid-type]
    patch_sizes: several(  # type: ignore[valid-type]
        4, Annotated[whole_number(1, 63), AfterValidator(_odd)]
    ) = (7, 3, 3, 3)
    strides: Annotated[  # type: ignore[valid-type]
        several(4, whole_number(1, 64)), AfterValidator(_halving)
    ] = (4, 2, 2, 2)
    num_attention_heads: Width = (1, 2, 5, 8)  # type: ignore[valid-type]
    mlp_ratios: several(4, any_number(1, 64)) = (4, 4, 4, 4)  # type: ignore[valid-type]
    hidden_act: Annotated[Any, AfterValidator(_known_activation)] = "gelu"
    hidden_dropout_prob: Rate = 0.0  # type: ignore[valid-type]
    attention_probs_dropout_prob: Rate = 0.0  # type: ignore[valid-type]
    initializer_range: any_number(0, 10) = 0.02  # type: ignore[valid-type]
    layer_norm_eps: Rate = 1e-6  # type: ignore[valid-type]
    decoder_hidden_size: whole_number(1, 8192) = 256  # type: ignore[valid-type]

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

    @property
    def unshared(self) -> list[int]:
        """Channels of the stages that their heads do not divide."""
        stages = zip(self.hidden_sizes, self.num_attention_heads, strict=True)
        return [width for width, heads in stages if width % heads]

    def keywords(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return self.model_dump(mode="json")


class Description(Architecture):
    """A checked ``config.json``: the architecture and the classes."""

    id2label: ClassNames = None
    num_labels: whole_number(1, 65536) = 2  # type: ignore[valid-type]

    @property
    def classes(self) -> int:
        """The number of classes K."""
        return len(self.id2label) if self.id2label else self.num_labels

    @property
    def architecture(self) -> Architecture:
        """The sizes alone."""
        return Architecture(**self.model_dump(include=set(Architecture.model_fields)))

    @property
    def class_names(self) -> Mapping[int, str] | None:
        """Class number -> name; None where the names are those that transformers makes up."""
        names = self.id2label or {}
        made_up = all(name == f"LABEL_{number}" for number, name in names.items())
        return None if made_up else names


def describe(config: ModelConfig) -> Description:
    """Return the description in a SegFormer's ``config.json``.

    Raises:
        WeightsMissing: it is another model's, a field has a wrong type or range, or the heads of a
            stage do not divide its channels.
    """
    content = config.content
    family, model = content.get("model_type", "segformer"), config.section.model or "segformer"
    if family != "segformer" or model != "segformer":
        got = f"model_type {family}" if family != "segformer" else f"model {model}"
        raise WeightsMissing(
            f"{config.path} does not describe a SegFormer", got=got, need="model_type segformer"
        )
    description = checked(Description, content, config.path)
    if description.unshared:
        got = {key: getattr(description, key) for key in ("num_attention_heads", "hidden_sizes")}
        raise not_a_model(config.path, got, "num_attention_heads: divisors of hidden_sizes")
    return description
