"""The sizes of a SegFormer: the table of variants, and what a weights' own ``config.json`` says instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from freqkd_cli.errors import RecipeError, WeightsMissing
from freqkd_cli.models._segformer_config import Architecture, Description, describe
from freqkd_cli.runtime.json_file import read_object
from freqkd_cli.weights.config import MEAN, STD, Config, number, read_config
from freqkd_cli.weights.state_dict import WEIGHT_FILES, hub_file, is_hub_id, read_state

EMBEDDED = Path(__file__).parent.parent / "weights" / "segformer_scenes"

LICENCE_NOTE = (
    "Weights published by NVIDIA for SegFormer are licensed for research and evaluation, not for commercial use; "
    "that holds for what is trained from them as well. Read the licence on the model's page before you deploy."
)

# channels, depths, heads, decoder channels: Xie et al., NeurIPS 2021, table 6; `mini` is this project's own, 1.5 M parameters.
VARIANTS: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]] = {
    "mini": ((24, 48, 96, 160), (2, 2, 2, 2), (1, 2, 3, 5), 128),
    "b0": ((32, 64, 160, 256), (2, 2, 2, 2), (1, 2, 5, 8), 256),
    "b1": ((64, 128, 320, 512), (2, 2, 2, 2), (1, 2, 5, 8), 256),
    "b2": ((64, 128, 320, 512), (3, 4, 6, 3), (1, 2, 5, 8), 768),
    "b3": ((64, 128, 320, 512), (3, 4, 18, 3), (1, 2, 5, 8), 768),
    "b4": ((64, 128, 320, 512), (3, 8, 27, 3), (1, 2, 5, 8), 768),
    "b5": ((64, 128, 320, 512), (3, 6, 40, 3), (1, 2, 5, 8), 768),
}


@dataclass(frozen=True)
class Weights:
    """Weights that a recipe names: where they are, what they say of themselves; the tensors are read on request.

    ``description`` is None for a weight file without a ``config.json``, ``folder`` for weights on the hub.
    """

    name: str
    description: Description | None
    licence_note: str | None
    preprocessor: Mapping[str, Any] | None
    folder: Path | None

    def state(self) -> dict[str, Tensor]:
        return (
            read_state(self.folder)
            if self.folder is not None
            else read_state(hub_file(self.name, WEIGHT_FILES))
        )

    def id2label(self) -> dict[int, str] | None:
        """Class names, where somebody named the classes."""
        return (
            dict(self.description.id2label)
            if self.description and self.description.id2label
            else None
        )

    def classes(self) -> int:
        """K of the checkpoint: from its config, or from the shape of its classifier where there is no config."""
        if self.description is not None:
            return self.description.classes
        from freqkd_cli.models._segformer_names import to_now

        classifier = to_now(self.state()).get("decode_head.classifier.weight")
        if classifier is None:
            raise WeightsMissing(f"{self.name} has no segmentation head", tip="head: new")
        return len(classifier)


def find_weights(name: str, *, offline: bool = False) -> Weights:
    """``embedded``, a local folder or file, or a hub id (``owner/name``); the last may download ``config.json``, unless ``offline``.

    Raises:
        WeightsMissing: there is nothing of that name, or its ``config.json`` describes no SegFormer.
    """
    place = EMBEDDED if name == "embedded" else Path(name).expanduser()
    if place.exists():
        beside = place if place.is_dir() else place.parent
        config = (
            read_config(beside / "config.json")
            if place.is_dir() or (beside / "config.json").is_file()
            else None
        )
        preprocessor = beside / "preprocessor_config.json"
        return _weights(
            name, config, read_object(preprocessor) if preprocessor.is_file() else None, place
        )
    if name == "embedded":
        raise WeightsMissing(
            "this installation has no embedded teacher",
            need=EMBEDDED,
            tip="install freqkd again, or name others",
        )
    if not is_hub_id(name):
        raise WeightsMissing(
            f"no weights at {name}",
            need="embedded, a folder, a weight file, or a hub id such as owner/name",
        )
    config = read_config(hub_file(name, ("config.json",), offline=offline), f"{name}/config.json")
    try:
        preprocessor = read_object(hub_file(name, ("preprocessor_config.json",), offline=offline))
    except WeightsMissing:  # a repository may leave it out; ImageNet's mean and std are then meant
        preprocessor = None
    return _weights(name, config, preprocessor, None)


def _weights(
    name: str, config: Config | None, preprocessor: Mapping[str, Any] | None, folder: Path | None
) -> Weights:
    note = config.ours.licence_note if config else None
    if folder is None and name.lower().startswith("nvidia/"):
        note = LICENCE_NOTE
    return Weights(name, describe(config) if config else None, note, preprocessor, folder)


def architecture(
    weights: Weights | None,
    *,
    variant: str | None,
    channels: Sequence[int] | None,
    depths: Sequence[int] | None,
    heads: Sequence[int] | None,
    decoder: int | None,
) -> Architecture:
    """What the network is made of.

    With weights that carry a config, that config decides, and an argument that says otherwise is an error. Else the variant (b0 unless
    said) decides, and the other arguments override it.

    Raises:
        RecipeError: arguments that make no network.
        WeightsMissing: arguments that contradict the weights.
    """
    wide, deep, many, out = VARIANTS[variant or "b0"]
    if channels is not None and heads is None:
        many = tuple(
            max(n for n in range(1, most + 1) if c % n == 0)
            for c, most in zip(channels, many, strict=True)
        )
    asked = {
        "hidden_sizes": channels if channels is not None else (wide if variant else None),
        "depths": depths if depths is not None else (deep if variant else None),
        "num_attention_heads": heads
        if heads is not None
        else (many if variant or channels is not None else None),
        "decoder_hidden_size": decoder if decoder is not None else (out if variant else None),
    }
    asked = {
        key: tuple(value) if isinstance(value, Sequence) else value
        for key, value in asked.items()
        if value is not None
    }
    if weights is not None and weights.description is not None:
        return _as_described(weights.name, weights.description.architecture, asked)
    found = replace(Architecture(), **asked)
    bad = [c for c, n in zip(found.hidden_sizes, found.num_attention_heads, strict=True) if c % n]
    if bad:
        raise RecipeError(
            f"{bad[0]} channels cannot be shared by the heads",
            got=f"heads {found.num_attention_heads}",
            need="a divisor",
        )
    return found


def _as_described(name: str, found: Architecture, asked: Mapping[str, Any]) -> Architecture:
    for key, value in asked.items():
        own = getattr(found, key)
        if own != value:
            raise WeightsMissing(
                f"{name} has another {key} than the recipe says",
                got=value,
                need=own,
                tip="leave it out",
            )
    return found


def normalisation(
    preprocessor: Mapping[str, Any] | None, where: str
) -> tuple[list[float], list[float]] | None:
    """Mean and std that a ``preprocessor_config.json`` asks for, in units of [0, 1], or None where it is silent.

    Raises:
        WeightsMissing: they are no three finite numbers, or the pictures would be scaled by 0 or less.
    """
    if not preprocessor:
        return None
    # Processors read 0 .. 255 and multiply by a factor first; what was written before there was one always divided by 255.
    factor = (
        preprocessor.get("rescale_factor", 1 / 255) if preprocessor.get("do_rescale", True) else 1
    )
    mean, std = preprocessor.get("image_mean"), preprocessor.get("image_std")
    if preprocessor.get("do_normalize") is False:
        mean, std = [0.0] * 3, [1.0] * 3
    elif mean is None or std is None:
        return None
    if not MEAN.holds(mean) or not STD.holds(std) or not number(1e-9, 1e9).holds(factor):
        got = f"image_mean {mean}, image_std {std}, rescale_factor {factor}"
        raise WeightsMissing(
            f"the preprocessor_config.json of {where} says no mean and std",
            got=got,
            need="three numbers each, std and factor above 0",
        )
    unit = 1.0 if abs(255 * factor - 1) < 1e-6 else 255 * factor
    return [x / unit for x in mean], [x / unit for x in std]


def reduces_labels(preprocessor: Mapping[str, Any] | None) -> bool:
    """Whether the model was trained on masks whose 0 is void and whose class k is stored as k + 1 (an older and a newer spelling)."""
    said = preprocessor or {}
    return bool(said.get("do_reduce_labels", said.get("reduce_labels")))
