"""The section ``data`` of a recipe and the sections inside it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from freqkd_cli.recipe.value_types import CountOrZero, Positive, ProperShare, Section, Share, Side


class Augment(Section):
    """Random changes with which a view of an image is made."""

    scale: tuple[Positive, Positive] = Field(
        (1.0, 1.0), description="smallest and largest zoom of the image before the crop"
    )
    flip: bool = Field(True, description="mirror half of the views horizontally")
    color: Share = Field(
        0.0, description="strength of random changes of brightness, contrast, saturation and hue"
    )
    blur: Share = Field(0.0, description="probability of a Gaussian blur")
    isolate: Share = Field(
        0.0,
        description="probability that only one small box of the crop is kept; the rest is gray "
        "and ignored",
    )

    @field_validator("scale")
    @classmethod
    def _ascending(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError("the smaller zoom first")
        return value


class Pool(Section):
    """Images without labels, which are mixed into every batch of the training."""

    name: str | None = Field(
        None,
        description="name of a data set: a file of datasets/; left out with data.unlabelled: pool",
    )
    root: Path | None = Field(None, description="folder of the pool; its labels are not read")
    share: ProperShare = Field(0.5, description="share of every batch that comes from the pool")
    arguments: dict[str, Any] = Field({}, description="arguments of the pool's data set")


class Data(Section):
    """The images, and how views are made of them."""

    name: str = Field(description="name of a data set: a file of datasets/")
    root: Path | None = Field(None, description="folder of the data set; --data-root replaces it")
    size: tuple[Side, Side] = Field(description="height and width of a view in pixels")
    views: CountOrZero = Field(
        0, description="different views per image; 0 = new views in every epoch (live teacher only)"
    )
    view_seed: CountOrZero = Field(
        0,
        description="seed of the views; independent of train.seed, so that seeds can share a cache",
    )
    teacher_sees: Literal["same", "clean"] = Field(
        "same", description="whether the teacher sees color changes (same) or not (clean)"
    )
    workers: Literal["auto"] | CountOrZero = Field(
        "auto",
        description="processes that read and crop images; 0 = the main process does it; auto = by "
        "cores, memory and the time of one view",
    )
    keep: Literal["none", "memory", "disk"] = Field(
        "none",
        description="where decoded images are kept between epochs: nowhere, in shared memory, or "
        "as files in the user's cache folder ($FREQKD_KEEP)",
    )
    augment: Augment = Field(Augment(), description="random changes of a view")
    hold_out: ProperShare | None = Field(
        None,
        description="share of the labelled training images that is scored instead of the "
        "validation split and never trained on; a hash of their names chooses them",
    )
    pool: Pool | None = Field(
        None, description="images without labels, from which only losses with a teacher learn"
    )
    arguments: dict[str, Any] = Field({}, description="arguments of the data set")


TRAINING_IMAGES = ("length", "labelled")
"""Arguments of data sets that choose among the training images alone."""


def labelled_number(data: Mapping[str, Any]) -> int | str:
    """Return how many training images, of which ``hold_out`` takes a share, have labels at most."""
    numbers = [data[key] for key in TRAINING_IMAGES if data.get(key) is not None]
    return min(numbers, default="all")


def held_out_data(data: Mapping[str, Any], root: Path | None) -> dict[str, Any]:
    """Return what decides which images a recipe is scored on, the share ``hold_out`` apart.

    Args:
        data: resolved values of the section; a key of a section inside it may be ``pool.root``.
        root: takes the place of ``data.root``.
    """
    folder = root or data.get("root")
    own = Data.model_fields
    arguments = {
        key: value
        for key, value in data.items()
        if key.partition(".")[0] not in own and key not in TRAINING_IMAGES
    }
    # Without files, images are drawn in the size of the views.
    size = {} if folder or data.get("repo") else {"size": data["size"]}
    return {
        "name": data["name"],
        "root": folder and os.path.realpath(folder),
        **size,
        **arguments,
    }
