"""The normalisation and the label convention in a ``preprocessor_config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from freqkd_cli.weights.config import Deviation, Mean, any_number, checked


class _Normalisation(BaseModel):
    """The numbers of a ``preprocessor_config.json`` that an image is normalised with."""

    image_mean: Mean  # type: ignore[valid-type]
    image_std: Deviation  # type: ignore[valid-type]
    rescale_factor: any_number(1e-9, 1e9)  # type: ignore[valid-type]


def normalisation(
    preprocessor: Mapping[str, Any] | None, where: str
) -> tuple[list[float], list[float]] | None:
    """Return the mean and std of a ``preprocessor_config.json`` in units of [0, 1], or None.

    Raises:
        WeightsMissing: they are not three finite numbers each, or a std or the factor is not above
        0.
    """
    if not preprocessor:
        return None
    # Processors read 0 .. 255 and multiply by a factor first. Versions without a factor divided
    # by 255.
    factor = (
        preprocessor.get("rescale_factor", 1 / 255) if preprocessor.get("do_rescale", True) else 1
    )
    mean, std = preprocessor.get("image_mean"), preprocessor.get("image_std")
    if preprocessor.get("do_normalize") is False:
        mean, std = [0.0] * 3, [1.0] * 3
    elif mean is None or std is None:
        return None
    fields = {"image_mean": mean, "image_std": std, "rescale_factor": factor}
    checked(_Normalisation, fields, f"the preprocessor_config.json of {where}")
    unit = 1.0 if abs(255 * factor - 1) < 1e-6 else 255 * factor
    return [x / unit for x in mean], [x / unit for x in std]


def reduces_labels(preprocessor: Mapping[str, Any] | None) -> bool:
    """Whether the masks of the training data had 0 for void and k + 1 for class k."""
    fields = preprocessor or {}  # the key has an older and a newer spelling
    return bool(fields.get("do_reduce_labels", fields.get("reduce_labels")))
