"""The variants of SegFormer, and the weights that a recipe names, with their own description."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from freqkd_cli.errors import RecipeError, WeightsMissing
from freqkd_cli.models._segformer_config import Architecture, Description, describe
from freqkd_cli.runtime.json_file import read_object
from freqkd_cli.weights.config import License, ModelConfig, read_config
from freqkd_cli.weights.hub import hub_file, is_hub_id
from freqkd_cli.weights.state_dict import WEIGHT_FILES, read_state

EMBEDDED = Path(__file__).parent.parent / "weights" / "segformer_scenes"

NVIDIA_LICENSE = License(
    name="NVIDIA Source Code License for SegFormer",
    note="The SegFormer weights that NVIDIA published are for research and evaluation, not for "
    "commercial use. This also holds for models trained from them. Read the license on the "
    "model's page before you deploy.",
    noncommercial=True,
)

# Channels, depths, heads, decoder channels: Xie et al., NeurIPS 2021, table 6. `mini` is this
# project's own, 1.5 M parameters.
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
class SegFormerWeights:
    """Weights that a recipe names, and their description. Tensors are read on request.

    ``description`` is None for a weight file without a ``config.json``, ``folder`` for weights on
    the hub.
    """

    name: str
    description: Description | None
    license: License | None
    preprocessor: Mapping[str, Any] | None
    folder: Path | None

    def state(self) -> dict[str, Tensor]:
        """Read the tensors."""
        return read_state(self.folder or hub_file(self.name, WEIGHT_FILES))

    def id2label(self) -> dict[int, str] | None:
        """Return the class names, or None where the classes have none."""
        names = self.description and self.description.class_names
        return dict(names) if names else None

    def classes(self) -> int:
        """Return K: from the config, or from the shape of the classifier where there is none."""
        if self.description is not None:
            return self.description.classes
        from freqkd_cli.models._segformer_names import to_module_names

        classifier = to_module_names(self.state()).get("decode_head.classifier.weight")
        if classifier is None:
            raise WeightsMissing(f"{self.name} has no segmentation head", tip="head: new")
        return len(classifier)


def find_weights(name: str, *, offline: bool = False) -> SegFormerWeights:
    """Find ``embedded``, a local folder or file, or a hub id (``owner/name``).

    For a hub id, ``config.json`` is downloaded, unless ``offline``.

    Raises:
        WeightsMissing: there is nothing of that name, or its ``config.json`` describes no
        SegFormer.
    """
    place = EMBEDDED if name == "embedded" else Path(name).expanduser()
    if place.exists():
        return _local_weights(name, place)
    if name == "embedded":
        raise WeightsMissing(
            "this installation has no embedded teacher",
            need=EMBEDDED,
            tip="install freqkd again, or name other weights",
        )
    if not is_hub_id(name):
        raise WeightsMissing(
            f"no weights at {name}",
            need="embedded, a folder, a weight file, or a hub id such as owner/name",
        )
    config = read_config(hub_file(name, ("config.json",), offline=offline), f"{name}/config.json")
    try:
        preprocessor = read_object(hub_file(name, ("preprocessor_config.json",), offline=offline))
    except WeightsMissing:  # a repository may leave it out, and then ImageNet's mean and std hold
        preprocessor = None
    license = hub_license(name) or config.section.license
    return SegFormerWeights(name, describe(config), license, preprocessor, folder=None)


def _local_weights(name: str, place: Path) -> SegFormerWeights:
    folder = place if place.is_dir() else place.parent
    config: ModelConfig | None = None
    if place.is_dir() or (folder / "config.json").is_file():
        config = read_config(folder / "config.json")
    preprocessor = folder / "preprocessor_config.json"
    return SegFormerWeights(
        name,
        describe(config) if config else None,
        config.section.license if config else None,
        read_object(preprocessor) if preprocessor.is_file() else None,
        place,
    )


def local_weights(name: str) -> SegFormerWeights | None:
    """Return weights that are on this machine, or None for a hub id or a run that is not yet."""
    try:
        return find_weights(name, offline=True)
    except WeightsMissing:
        if name == "embedded" or Path(name).expanduser().exists():
            raise
        return None


def hub_license(name: str) -> License | None:
    """Return the license of a hub repository whose owner publishes all weights under one."""
    owner, slash, _ = name.lower().partition("/")
    return NVIDIA_LICENSE if slash and owner == "nvidia" else None


def weights_license(name: str) -> License | None:
    """Return the license of weights that a recipe names, or None where it is not known.

    Nothing is downloaded.
    """
    try:
        return find_weights(name, offline=True).license
    except WeightsMissing:
        return hub_license(name)


def architecture(
    weights: SegFormerWeights | None,
    *,
    variant: str | None,
    channels: Sequence[int] | None,
    depths: Sequence[int] | None,
    heads: Sequence[int] | None,
    decoder: int | None,
) -> Architecture:
    """Return the sizes of the network.

    With weights that carry a config, that config decides, and an argument that differs from it is
    an error. Otherwise the variant (b0 by default) decides, and the other arguments override it.

    Raises:
        RecipeError: arguments that make no network.
        WeightsMissing: arguments that contradict the weights.
    """
    chosen = _variant_sizes(variant) if variant else {}
    if channels is not None and heads is None:
        most_heads = VARIANTS[variant or "b0"][2]
        heads = [
            max(n for n in range(1, most + 1) if c % n == 0)
            for c, most in zip(channels, most_heads, strict=True)
        ]
    given = {
        "hidden_sizes": channels and tuple(channels),
        "depths": depths and tuple(depths),
        "num_attention_heads": heads and tuple(heads),
        "decoder_hidden_size": decoder,
    }
    chosen |= {key: value for key, value in given.items() if value is not None}
    if weights is not None and weights.description is not None:
        return _as_described(weights.name, weights.description.architecture, chosen)
    sizes = Architecture(**chosen)
    if sizes.unshared:
        raise RecipeError(
            f"{sizes.unshared[0]} channels cannot be divided among the heads",
            got=f"heads {sizes.num_attention_heads}",
            need="a divisor of the channels",
            key="heads",
        )
    return sizes


def _variant_sizes(variant: str) -> dict[str, Any]:
    fields = ("hidden_sizes", "depths", "num_attention_heads", "decoder_hidden_size")
    return dict(zip(fields, VARIANTS[variant], strict=True))


_ARGUMENTS = {
    "hidden_sizes": "channels",
    "depths": "depths",
    "num_attention_heads": "heads",
    "decoder_hidden_size": "decoder",
}
"""Field of transformers' config -> argument of ``build``."""


def _as_described(name: str, sizes: Architecture, chosen: Mapping[str, Any]) -> Architecture:
    for key, value in chosen.items():
        own = getattr(sizes, key)
        if own != value:
            raise WeightsMissing(
                f"{name} has another {key} than the recipe",
                got=value,
                need=own,
                tip="leave variant, channels, depths, heads and decoder out of the recipe",
                key=_ARGUMENTS[key],
            )
    return sizes
