"""The sizes of a SegFormer, and the checks of a ``config.json`` that transformers wrote for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from operator import mul
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from freqkd_cli.errors import WeightsMissing, some
from freqkd_cli.features.trained_weights import section_tip
from freqkd_cli.weights.config import (
    SEGFORMER_TYPES,
    ModelConfig,
    NamesInOrder,
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


def _rgb(channels: Any) -> Any:
    if channels != 3:
        raise ValueError("3, as freqkd reads RGB images; other bands are not supported")
    return 3


CONV_TYPE = "segformer_conv_decoder"
"""``model_type`` of a folder that freqkd wrote for a SegFormer with mmsegmentation's decoder."""

DecoderStyle = Literal["linear", "conv"]
"""``linear``: the authors' decoder. ``conv``: mmsegmentation's, a norm and a ReLU after each
stage's projection, and 1e-6 as epsilon of every LayerNorm."""


def _for_each_stage(ratios: Any) -> Any:
    return [ratios] * 4 if type(ratios) in (int, float) else ratios


Width = several(4, whole_number(1, 8192))
Rate = any_number(0, 1)


class Architecture(BaseModel):
    """The keywords of transformers' ``SegformerConfig``, without classes and drop rates.

    The defaults are those that transformers uses for a file that leaves a field out.
    """

    model_config = ConfigDict(frozen=True)

    num_channels: Annotated[Any, AfterValidator(_rgb)] = 3
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
    mlp_ratios: Annotated[  # type: ignore[valid-type]
        several(4, any_number(1, 64)), BeforeValidator(_for_each_stage)
    ] = (4, 4, 4, 4)
    hidden_act: Annotated[Any, AfterValidator(_known_activation)] = "gelu"
    hidden_dropout_prob: Rate = 0.0  # type: ignore[valid-type]
    attention_probs_dropout_prob: Rate = 0.0  # type: ignore[valid-type]
    initializer_range: any_number(0, 10) = 0.02  # type: ignore[valid-type]
    layer_norm_eps: Rate = 1e-6  # type: ignore[valid-type]
    decoder_hidden_size: whole_number(1, 8192) = 256  # type: ignore[valid-type]
    decoder_style: DecoderStyle = "linear"

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
        """Return the fields of transformers' config, as JSON has them."""
        return self.model_dump(mode="json", exclude={"decoder_style"})


class Description(Architecture):
    """A checked ``config.json``: the architecture and the classes.

    Attributes:
        id2label: number that the file gives a class -> name, ascending; the n-th of them is the
            name of the classifier's n-th row.
    """

    id2label: NamesInOrder = None
    num_labels: whole_number(1, 65536) | None = None  # type: ignore[valid-type]
    semantic_loss_ignore_index: Any = 255

    @property
    def rows(self) -> int | None:
        """Rows of the classifier, or None where the file names no classes and no number."""
        return len(self.id2label) if self.id2label else self.num_labels

    @property
    def architecture(self) -> Architecture:
        """The sizes alone."""
        return Architecture(**self.model_dump(include=set(Architecture.model_fields)))

    @property
    def row_names(self) -> list[str]:
        """The names of the rows; none where they are those that transformers makes up."""
        names = self.id2label or {}
        made_up = all(name == f"LABEL_{number}" for number, name in names.items())
        return [] if made_up else list(names.values())

    def remarks(self, classes: Sequence[str]) -> list[str]:
        """Return what users must know of the classes, one sentence each.

        Args:
            classes: the names of the model's classes; two for a classifier with one row.
        """
        texts, names = [], self.row_names
        numbers = list(self.id2label or {}) if names else []
        if len(names) > 1 and numbers != list(range(len(names))):
            pairs = zip(numbers, names, strict=True)
            rows = [f"row {row} is {name} ({n})" for row, (n, name) in enumerate(pairs)]
            texts.append(
                "its classes are not numbered from 0 without gaps, so the names are given to the "
                f"rows in order: {some(rows, 6)}"
            )
        ignored = self.semantic_loss_ignore_index
        if type(ignored) is int and 0 <= ignored < max(2, self.rows or 2):
            name = f" ({classes[ignored]})" if classes else ""
            texts.append(
                f"it was trained with semantic_loss_ignore_index {ignored}, so class "
                f"{ignored}{name} was void there, and its scores for that class are not trained"
            )
        return texts


def describe(config: ModelConfig) -> Description:
    """Return the description in a SegFormer's ``config.json``.

    Raises:
        WeightsMissing: it is another model's, a field has a wrong type or range, the heads of a
            stage do not divide its channels, or the weights are quantised.
    """
    content = config.content
    family, model = content.get("model_type", "segformer"), config.section.model or "segformer"
    own = family == CONV_TYPE or str(family).lower() in SEGFORMER_TYPES
    if not own or model != "segformer":
        got = f"model {model}" if own else f"model_type {family}"
        raise WeightsMissing(
            f"{config.path} does not describe a SegFormer",
            got=got,
            need="model_type segformer",
            tip=section_tip(config.section, Path(config.path).parent) if own else None,
        )
    _refuse_quantised(config)
    style = "conv" if family == CONV_TYPE else "linear"
    description = checked(Description, {**content, "decoder_style": style}, config.path)
    _require_shared(description, config.path)
    return description


def checked_architecture(fields: Mapping[str, Any], path: str) -> Architecture:
    """Return the architecture of checked fields; heads, where given, divide the channels.

    Raises:
        WeightsMissing: a field has a wrong type or range.
    """
    sizes = checked(Architecture, fields, path)
    if "num_attention_heads" in fields:
        _require_shared(sizes, path)
    return sizes


def _require_shared(sizes: Architecture, path: str) -> None:
    if sizes.unshared:
        got = {key: getattr(sizes, key) for key in ("num_attention_heads", "hidden_sizes")}
        raise not_a_model(path, got, "num_attention_heads: divisors of hidden_sizes")


def _refuse_quantised(config: ModelConfig) -> None:
    method = config.content.get("quantization_config")
    if not method:
        return
    kind = method.get("quant_method") if isinstance(method, dict) else method
    folder = config.path.removesuffix("/config.json")
    raise WeightsMissing(
        f"{folder} has quantised weights",
        got=f"quantization_config {kind or 'of an unnamed method'}",
        need="weights in float32, float16 or bfloat16",
        tip='with the library that quantised it installed: python -c "from transformers import '
        f"SegformerForSemanticSegmentation as S; S.from_pretrained('{folder}').dequantize()"
        f".save_pretrained('{folder}-float')\", and then the folder {folder}-float",
    )
