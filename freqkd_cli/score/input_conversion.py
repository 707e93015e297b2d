"""How the images of ``predict`` become 8-bit RGB: by its options, else as the run was trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqkd_cli import recipe as recipes
from freqkd_cli.build.exported_model import folder_of
from freqkd_cli.errors import UsageError
from freqkd_cli.images.conversion import OPTION, Conversion

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ConversionOptions:
    """The options ``--bits``, ``--percentile`` and ``--bands``, as they were typed."""

    bits: int | None = None
    percentile: str | None = None
    bands: str | None = None


def conversion_keys(folder: Path) -> dict[str, Any]:
    """Return ``bits``, ``percentile`` and ``bands`` of a run's recipe, those that are set."""
    recipe = folder / "recipe.yaml"
    keys = recipes.load(recipe, parts=False).data.arguments if recipe.is_file() else {}
    return {key: keys[key] for key in ("bits", "percentile", "bands") if keys.get(key) is not None}


def conversion_of(source: Path, model: nn.Module, options: ConversionOptions) -> Conversion:
    """Return the conversion of the images that a model labels.

    The keys are those in an exported file, else those of the run's recipe. An option replaces a
    key; bits and percentile replace each other.

    Raises:
        UsageError: an option that cannot be read, or options that exclude each other.
    """
    facts = getattr(model, "facts", None)
    stored = facts.conversion if facts else None
    keys = conversion_keys(folder_of(source)) if stored is None else stored
    bits, percentile = options.bits, _numbers("percentile", options.percentile, "1,99")
    if bits is None and percentile is None:
        bits, percentile = keys.get("bits"), keys.get("percentile")
    bands = _numbers("bands", options.bands, "1,2,3") or keys.get("bands")
    return Conversion.of(bits, percentile, bands and [int(band) for band in bands], OPTION)


def _numbers(option: str, text: str | None, example: str) -> list[float] | None:
    """
    Raises:
        UsageError: the text is not a list of numbers.
    """
    if text is None:
        return None
    need = f"{example.count(',') + 1} numbers, such as {example}"
    try:
        numbers = [float(part) for part in text.strip("[]").split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != example.count(",") + 1:
        raise UsageError(f"--{option} cannot be read", got=text, need=need, key=option)
    return numbers
